"""What a training run's folder holds for whoever watches: written by `sumika.finetune`, read here by name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CONFIG, RESULT, PROGRESS, METRICS, LOG = "config.yaml", "result.json", "progress.json", "metrics.jsonl", "train.log"
# Of a job that came through the API: what was asked, and what the check of it found.
ORDER, CHECKED = "order.json", "check.json"
CHECKPOINTS = "checkpoints"
# Folders beside the runs begin so, in which jobs from the network are checked.
WORKSPACE = ".checking-"
DATA = "data-report.json"
# Where the files lie that the job names, and their hashes (`finetune/data/inputs.py`).
INPUTS = "inputs.json"
_TAIL_BYTES = 32_768


def create(runs: Path, job: str) -> Path:
    """A new folder under `runs`, named for its job and its moment."""
    folder = runs / name(job)
    folder.mkdir(mode=0o700)
    return folder


def name(job: str) -> str:
    """What a new run's folder is called."""
    return f"{job}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"


def order(run: Path) -> dict[str, Any] | None:
    """What was asked through the API; None where the job came another way."""
    return _object(run / ORDER)


def checked(run: Path) -> dict[str, Any] | None:
    """What the check of such a job found: figures, or `error`; None before it ended."""
    return _object(run / CHECKED)


def checkpoints(run: Path) -> list[tuple[int, Path]]:
    """Steps with the folders of their checkpoints, the oldest first, unread."""
    return sorted((int(path.name.removeprefix("step-")), path) for path in (run / CHECKPOINTS).glob("step-*"))


def progress(run: Path) -> dict[str, Any]:
    """What the run last told of itself; empty before it began."""
    return _object(run / PROGRESS) or {}


def result(run: Path) -> dict[str, Any] | None:
    """What came of a run that ended; None while it has not."""
    return _object(run / RESULT)


def data(run: Path) -> dict[str, Any] | None:
    """Counts of the job's data; None before it was read."""
    return _object(run / DATA)


def inputs(run: Path) -> dict[str, Any]:
    """What was kept of the files that the job names; empty before it was checked."""
    return _object(run / INPUTS) or {}


def config(run: Path) -> str:
    """The job as it was resolved, as YAML; empty where the folder is gone."""
    try:
        return (run / CONFIG).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def metrics(run: Path) -> list[dict[str, Any]]:
    """The logged steps; a line that a kill cut short is left out."""
    return list(_lines(run / METRICS))


def tail(run: Path, lines: int) -> str:
    """The last lines of the log; progress bars' carriage returns count as line ends."""
    try:
        with (run / LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


def dotted(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings by dotted key: a configuration or a result, flat."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from dotted(inner, f"{at}.{key}" if at else str(key))
    else:
        yield at, value


def _object(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return value if isinstance(value, dict) else None


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):
                yield json.loads(line)
