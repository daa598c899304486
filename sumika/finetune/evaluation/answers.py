"""Greedy answers to rows that were never trained on, and what a model makes of the answers expected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sumika.finetune.chat import ChatFormat
from sumika.finetune.data.record import Conversation, Row
from sumika.finetune.evaluation import checks
from sumika.finetune.evaluation.checks import Check
from sumika.finetune.evaluation.patterns import PatternSearch

_BATCH = 16


@dataclass(frozen=True, slots=True)
class Answer:
    """One greedy answer. `ended`: by a stop token of its own, not by the length limit; `right`: None where nothing says."""

    question: str
    text: str
    ids: list[int]
    ended: bool
    right: bool | None
    exact: bool
    f1: float


def answer(
    model: Any, chat: ChatFormat, rows: Sequence[Row[Conversation]], max_new_tokens: int, check: Check = "facts",
    search: PatternSearch | None = None,
) -> list[Answer]:  # fmt: skip
    """Answer each row's question, in batches padded on the left. `search`: for the patterns of a regex suite."""
    answers: list[Answer] = []
    for start in range(0, len(rows), _BATCH):
        answers += _answer_batch(model, chat, rows[start : start + _BATCH], max_new_tokens, check, search)
    return answers


def loss(model: Any, chat: ChatFormat, rows: Sequence[Row[Conversation]]) -> float:
    """Mean cross-entropy (nats) of the rows' trained tokens."""
    import torch
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from sumika.finetune.training.answer_loss import summed

    collate, total, count = DataCollatorForLanguageModeling(chat.pad_id), 0.0, 0
    for start in range(0, len(rows), _BATCH):
        rendered = [chat.render_conversation(row.content) for row in rows[start : start + _BATCH]]
        batch = collate([{"input_ids": one.input_ids, "labels": one.labels} for one in rendered])
        with torch.inference_mode():
            one_sum, one_count = summed(model, {name: value.to(model.device) for name, value in batch.items()})
        total, count = total + float(one_sum), count + int(one_count)
    return total / count


def _answer_batch(
    model: Any,
    chat: ChatFormat,
    rows: Sequence[Row[Conversation]],
    max_new_tokens: int,
    check: Check,
    search: PatternSearch | None,
) -> list[Answer]:
    import torch

    prompts = [chat.prompt_ids(row.content.question) for row in rows]
    width = max(map(len, prompts))
    pad = chat.pad_id
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False,
            eos_token_id=list(chat.stop_ids), pad_token_id=pad,
            # As a position, not the number 1: see `reference.log_probabilities`; the copies were of 335 MB for each row here.
            logits_to_keep=torch.tensor([-1], device=model.device),
        )  # fmt: skip
    return [_one(chat, row, tokens[width:], check, search) for row, tokens in zip(rows, out.tolist(), strict=True)]


def _one(chat: ChatFormat, row: Row[Conversation], tokens: list[int], check: Check, search: PatternSearch | None) -> Answer:
    stop = next((i for i, token in enumerate(tokens) if token in chat.stop_ids), None)
    ids = tokens if stop is None else tokens[: stop + 1]
    text = chat.tokenizer.decode(ids, skip_special_tokens=True).strip()
    expected = row.content.messages[-1]["content"]
    return Answer(
        row.content.question[-1]["content"], text, ids, stop is not None,
        checks.right(check, text, row, search), checks.exact(text, expected), checks.f1(text, expected),
    )  # fmt: skip
