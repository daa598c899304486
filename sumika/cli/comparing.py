"""Two trainings side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from sumika.cli import output
from sumika.finetune import runs
from sumika.finetune.training import journal
from sumika.models import jobs, registry
from sumika.models.errors import SumikaError, quoted
from sumika.models.home import Home
from sumika.models.names import VersionRef
from sumika.models.store import Store

_POINTS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Side:
    """`config` by dotted key; `losses` by step; `result` as result.json has it, None while it runs."""

    name: str
    config: dict[str, Any]
    losses: dict[int, float]
    result: dict[str, Any] | None


def side(text: str, store: Store, home: Home) -> Side:
    """A job by its number, a run by its folder, or the run that made a version.

    Raises:
        SumikaError: `not_found`.
    """
    folder = runs.find(home, _run_of(text, store))
    config = dict(runs.dotted(yaml.safe_load((folder / runs.CONFIG).read_text(encoding="utf-8"))))
    losses = {line["step"]: line["loss"] for line in journal.read(folder) if "loss" in line}
    return Side(text, config, losses, runs.result(folder))


def _run_of(text: str, store: Store) -> str:
    with store.read() as connection:
        if text.isascii() and text.isdigit():
            return jobs.get(connection, int(text)).run
        if "@" not in text:
            return text
        training = registry.get(connection, VersionRef.parse(text)).meta.get("training", {})
    if "run" not in training:
        raise SumikaError(
            "not_found",
            f"{quoted(text)} was not trained here, so there is no run to compare.",
            f"{quoted(text)} はここで学習したものではないため、比べる記録がありません。",
            status=404,
        )
    return str(training["run"])


def tell(a: Side, b: Side) -> None:
    differing = [(key, a.config.get(key), b.config.get(key)) for key in _keys(a, b) if a.config.get(key) != b.config.get(key)]
    output.print_table(("configuration", a.name, b.name), differing, ("The configurations are the same.", "設定は同じです。"))
    steps = sorted(a.losses.keys() & b.losses.keys())
    if steps:
        at = dict.fromkeys(steps[round(share * (len(steps) - 1))] for share in _POINTS)
        output.print_table(
            ("loss at step", a.name, b.name), [(n, f"{a.losses[n]:.4f}", f"{b.losses[n]:.4f}") for n in at], ("", "")
        )
    output.print_table(
        ("result", a.name, b.name),
        [(key, one, other) for key, one, other in _results(a, b)],
        ("Neither has ended.", "どちらもまだ終わっていません。"),
    )


def _keys(a: Side, b: Side) -> list[str]:
    return [*a.config, *(key for key in b.config if key not in a.config)]


def _results(a: Side, b: Side) -> Iterator[tuple[str, Any, Any]]:
    if a.result is None and b.result is None:
        return
    one, other = (dict(runs.dotted(side.result or {})) for side in (a, b))
    shown = ("version", "gate", "evaluation.candidate.", "evaluation.suites.", "figures.")
    for key in dict.fromkeys([*one, *other]):
        if key.startswith(shown):
            yield key.removeprefix("evaluation."), one.get(key), other.get(key)
