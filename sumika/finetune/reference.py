"""The canary reference: what transformers thinks of a few answers, with the adapter and without, for vLLM to agree with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sumika.finetune.chat import ChatFormat
from sumika.finetune.data.record import Conversation, Row
from sumika.finetune.evaluate import Answer
from sumika.models.canary import CanaryPrompt

# Enough tokens to tell adapter and base apart by whole nats; each costs the engine a row of logits at every swap.
PROMPTS = 2
_LONGEST = 16


def make(model: Any, chat: ChatFormat, rows: Sequence[Row[Conversation]], answers: Sequence[Answer]) -> list[CanaryPrompt]:
    """The first few held-out questions with the adapter's own answers, scored by both models (`model` is a PEFT model)."""
    made = []
    for row, answer in list(zip(rows, answers, strict=True))[:PROMPTS]:
        prompt, ids = chat.prompt_ids(row.content.question), answer.ids[:_LONGEST]
        with_adapter = log_probabilities(model, prompt, ids)
        with model.disable_adapter():
            made.append(CanaryPrompt(prompt, ids, with_adapter, log_probabilities(model, prompt, ids)))
    return made


def log_probabilities(model: Any, prompt_ids: list[int], answer_ids: list[int]) -> list[float]:
    """Natural logarithm of the probability of each answer token, given all before it."""
    import torch

    ids = torch.tensor([prompt_ids + answer_ids], device=model.device)
    with torch.inference_mode():
        # The logits at a position are about the next token; the last one has nothing to say here.
        logits = model(input_ids=ids, logits_to_keep=len(answer_ids) + 1).logits[0, :-1].float()
    chosen = torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(answer_ids, device=model.device)[:, None])
    return [round(float(value), 5) for value in chosen[:, 0]]
