"""Whether a candidate may serve: each reason why not, in words."""

from __future__ import annotations

from collections.abc import Mapping

from sumika.finetune.config import Gate
from sumika.finetune.evaluation.judging import Judged
from sumika.finetune.evaluation.scores import Score

HELD_OUT = "held_out"


def reasons(gate: Gate, judged: Mapping[str, Judged]) -> list[tuple[str, str]]:
    """What the gate finds wrong, in English and Japanese; empty when the candidate may serve."""
    scores = judged[HELD_OUT].scores
    candidate, base, served = scores["candidate"], scores["base"], scores.get("served")
    found = [*_absolute(gate, candidate)]
    if gate.better_than_base and candidate.merit <= base.merit:
        found.append((
            f"it does no better than the base ({_merit(candidate)} against {_merit(base)})",
            f"ベースモデルより良くありません({_merit(candidate)} 対 {_merit(base)})",
        ))  # fmt: skip
    if gate.not_worse_than_served and served is not None and candidate.merit < served.merit:
        found.append((
            f"it does worse than the version in service ({_merit(candidate)} against {_merit(served)})",
            f"配備中の版より悪い結果です({_merit(candidate)} 対 {_merit(served)})",
        ))  # fmt: skip
    for name, least in gate.suites.items():
        merit = judged[name].scores["candidate"].merit
        if merit < least:
            found.append(
                (f"suite {name}: {merit:.2f} is under {least:.2f}", f"スイート {name}: {merit:.2f} が下限 {least:.2f} 未満です")
            )
    return found


def _absolute(gate: Gate, candidate: Score) -> list[tuple[str, str]]:
    found = []
    if candidate.share is not None and candidate.share < gate.min_facts:
        found.append((
            f"{candidate.right} of {candidate.judged} answers hold the right facts, under min_facts {gate.min_facts:g}",
            f"正しい事実を含む応答が {candidate.judged} 件中 {candidate.right} 件で、min_facts {gate.min_facts:g} に届きません",
        ))  # fmt: skip
    if gate.min_f1 is not None and candidate.f1 < gate.min_f1:
        found.append(
            (
                f"F1 {candidate.f1:.2f} is under min_f1 {gate.min_f1:g}",
                f"F1 {candidate.f1:.2f} が min_f1 {gate.min_f1:g} 未満です",
            )
        )
    if gate.max_loss is not None and candidate.loss > gate.max_loss:
        found.append(
            (
                f"loss {candidate.loss:.3f} is over max_loss {gate.max_loss:g}",
                f"損失 {candidate.loss:.3f} が max_loss {gate.max_loss:g} を超えています",
            )
        )
    return found


def _merit(score: Score) -> str:
    return f"F1 {score.f1:.2f}" if score.share is None else f"{score.right} / {score.judged}"
