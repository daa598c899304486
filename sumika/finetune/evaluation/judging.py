"""Candidate, base and the version in service, side by side on the same rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sumika.finetune.chat import ChatFormat
from sumika.finetune.data.record import Conversation, Row
from sumika.finetune.evaluation import answers
from sumika.finetune.evaluation.answers import Answer
from sumika.finetune.evaluation.checks import Check
from sumika.finetune.evaluation.patterns import PatternSearch
from sumika.finetune.evaluation.scores import Score

Who = Literal["candidate", "base", "served"]


@dataclass(frozen=True, slots=True)
class Set:
    """Rows to answer, and by what an answer is judged."""

    rows: Sequence[Row[Conversation]]
    check: Check
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Judged:
    """What each model said to one set, and how it did."""

    answers: dict[Who, list[Answer]]
    scores: dict[Who, Score]


def judge(model: Any, chat: ChatFormat, sets: Mapping[str, Set], served: Path | None) -> dict[str, Judged]:
    """Each set by its name, answered by the adapter in training (`model`, of PEFT), by its base, and by the adapter in
    folder `served` where one serves on the same base."""
    judged = {name: Judged({}, {}) for name in sets}
    everyone: tuple[Who, ...] = ("candidate", "base") if served is None else ("candidate", "base", "served")
    with PatternSearch() as search:
        for who in everyone:
            with _speaking(model, who, served):
                for name, one in sets.items():
                    given = answers.answer(model, chat, one.rows, one.max_new_tokens, one.check, search)
                    judged[name].answers[who] = given
                    judged[name].scores[who] = Score.of(given, answers.loss(model, chat, one.rows))
    return judged


@contextmanager
def _speaking(model: Any, who: Who, served: Path | None) -> Iterator[None]:
    if who == "base":
        with model.disable_adapter():
            yield
    elif who == "served":
        model.load_adapter(str(served), adapter_name="served")
        model.set_adapter("served")
        try:
            yield
        finally:
            model.set_adapter("default")
            model.delete_adapter("served")
    else:
        yield
