"""A few rows exactly as the model sees them, trained tokens apart, with personal data hidden from whoever looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sumika.finetune.chat import ChatFormat, Rendered, RenderedPair
from sumika.finetune.data import pii

_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
_LONGEST = 4000  # characters shown of a piece


@dataclass(frozen=True, slots=True)
class Piece:
    text: str
    trained: bool


@dataclass(frozen=True, slots=True)
class Sample:
    where: str
    tokens: int
    trained: int
    pieces: list[Piece]
    rejected: list[Piece] | None = None


def take(chat: ChatFormat, rows: Sequence[tuple[str, Rendered | RenderedPair]]) -> list[Sample]:
    """The shortest row, the longest, and those at the quarters between them."""
    ordered = sorted(range(len(rows)), key=lambda index: (rows[index][1].length, index))
    chosen = dict.fromkeys(ordered[round(share * (len(ordered) - 1))] for share in _SHARES) if ordered else {}
    return [_sample(chat, *rows[index]) for index in chosen]


def _sample(chat: ChatFormat, where: str, row: Rendered | RenderedPair) -> Sample:
    if isinstance(row, RenderedPair):
        prompt = (row.prompt_ids.tolist(), False)
        better, worse = ([prompt, (ids.tolist(), True)] for ids in (row.chosen_ids, row.rejected_ids))
        return Sample(where, row.length, row.trained, _pieces(chat, better), _pieces(chat, worse))
    runs, at = [], 0
    for start, end in row.trained_spans:
        runs += [(row.ids[at:start].tolist(), False), (row.ids[start:end].tolist(), True)]
        at = end
    return Sample(where, row.length, row.trained, _pieces(chat, [*runs, (row.ids[at:].tolist(), False)]))


def _pieces(chat: ChatFormat, runs: Sequence[tuple[list[int], bool]]) -> list[Piece]:
    texts = [chat.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) for ids, _ in runs]
    whole, at, pieces = pii.covered("".join(texts)), 0, []
    for text, (_, trained) in zip(texts, runs, strict=True):
        shown = whole[at : at + len(text)]
        at += len(text)
        if shown:
            pieces.append(Piece(shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…", trained))
    return pieces
