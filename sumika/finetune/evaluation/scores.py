"""How one model did on one set of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sumika.finetune.evaluation.answers import Answer


@dataclass(frozen=True, slots=True)
class Score:
    """`right` of `judged` answers passed the set's check; `exact` are the answer expected; `f1` is the mean of characters'
    F1; `loss` in nats for each trained token of the answers expected."""

    rows: int
    judged: int
    right: int
    ended: int
    exact: int
    f1: float
    loss: float

    @property
    def share(self) -> float | None:
        """Of the answers that could be judged, how many were right; None where none could."""
        return self.right / self.judged if self.judged else None

    @property
    def merit(self) -> float:
        """By which two models are compared: the share of right answers, or F1 where nothing else judges."""
        return self.f1 if self.share is None else self.share

    @classmethod
    def of(cls, answers: Sequence[Answer], loss: float) -> Score:
        judged = [one.right for one in answers if one.right is not None]
        return cls(
            len(answers), len(judged), sum(judged), sum(one.ended for one in answers), sum(one.exact for one in answers),
            round(sum(one.f1 for one in answers) / len(answers), 4), round(loss, 4),
        )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
