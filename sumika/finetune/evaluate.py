"""Does an answer hold the right facts? Greedy answers to held-out questions, with the adapter and without."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sumika.finetune.chat import ChatFormat
from sumika.finetune.data.record import Conversation, Row

_BATCH = 16


@dataclass(frozen=True, slots=True)
class Answer:
    """One greedy answer. `ended`: by a stop token of its own, not by the length limit."""

    question: str
    text: str
    ids: list[int]
    right: bool
    ended: bool


@dataclass(frozen=True, slots=True)
class Score:
    """How a model did on the held-out rows."""

    right: int
    ended: int
    rows: int

    @property
    def share(self) -> float:
        return self.right / self.rows

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> Score:
        return cls(sum(a.right for a in answers), sum(a.ended for a in answers), len(answers))

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def holds_facts(text: str, facts: Iterable[Sequence[str]]) -> bool:
    """Whether `text` has, after NFKC, one string of every requirement, not as the tail of a longer number."""
    plain = unicodedata.normalize("NFKC", text)
    return all(any(_has(plain, unicodedata.normalize("NFKC", one)) for one in requirement) for requirement in facts)


def _has(text: str, fact: str) -> bool:
    at = text.find(fact)
    while at >= 0:
        # 「119円」 does not say 「19円」, nor 「11,500円」 「500円」.
        if not (fact[0].isdigit() and at > 0 and (text[at - 1].isdigit() or text[at - 1] in ",.")):
            return True
        at = text.find(fact, at + 1)
    return False


def answer(model: Any, chat: ChatFormat, rows: Sequence[Row[Conversation]], max_new_tokens: int) -> list[Answer]:
    """Answer each row's question greedily, in batches padded on the left."""
    answers = []
    for start in range(0, len(rows), _BATCH):
        answers += _answer_batch(model, chat, rows[start : start + _BATCH], max_new_tokens)
    return answers


def _answer_batch(model: Any, chat: ChatFormat, rows: Sequence[Row[Conversation]], max_new_tokens: int) -> list[Answer]:
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
    return [_one(chat, row, tokens[width:]) for row, tokens in zip(rows, out.tolist(), strict=True)]


def _one(chat: ChatFormat, row: Row[Conversation], tokens: list[int]) -> Answer:
    stop = next((i for i, token in enumerate(tokens) if token in chat.stop_ids), None)
    ids = tokens if stop is None else tokens[: stop + 1]
    text = chat.tokenizer.decode(ids, skip_special_tokens=True).strip()
    return Answer(row.content.question[-1]["content"], text, ids, holds_facts(text, row.facts), stop is not None)
