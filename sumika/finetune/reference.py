"""The canary reference: what transformers thinks of a few answers, with the adapter and without, for vLLM to agree with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sumika.finetune.chat import ChatFormat
from sumika.finetune.data.record import Conversation, Row
from sumika.finetune.evaluation.answers import Answer
from sumika.models.canary import CanaryPrompt

# Enough tokens to tell adapter and base apart by whole nats; each costs the engine a row of logits at every swap.
PROMPTS = 2
LONGEST = 16


def make(model: Any, chat: ChatFormat, rows: Sequence[Row[Conversation]], answers: Sequence[Answer]) -> list[CanaryPrompt]:
    """The first few held-out questions with the adapter's own answers, scored by both models (`model` is a PEFT model)."""
    first = list(zip(rows, answers, strict=True))[:PROMPTS]
    return [score(model, chat.prompt_ids(row.content.question), answer.ids[:LONGEST]) for row, answer in first]


def score(model: Any, prompt_ids: list[int], answer_ids: list[int]) -> CanaryPrompt:
    """One answer, seen by the PEFT model and by its base."""
    adapter = log_probabilities(model, prompt_ids, answer_ids)
    with model.disable_adapter():
        return CanaryPrompt(prompt_ids, answer_ids, adapter, log_probabilities(model, prompt_ids, answer_ids))


def log_probabilities(model: Any, prompt_ids: list[int], answer_ids: list[int]) -> list[float]:
    """Natural logarithm of the probability of each answer token, given all before it."""
    import torch

    ids = torch.tensor([prompt_ids + answer_ids], device=model.device)
    # The logits at a position are about the next token. Positions and not a number of them: torch multiplies a slice of the
    # hidden states by way of a copy of the whole output matrix, and positions are gathered into a tensor of their own.
    positions = torch.arange(len(prompt_ids) - 1, ids.shape[1] - 1, device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=ids, logits_to_keep=positions).logits[0].float()
    chosen = torch.log_softmax(logits, dim=-1).gather(1, torch.tensor(answer_ids, device=model.device)[:, None])
    return [round(float(value), 5) for value in chosen[:, 0]]
