"""What a training run's folder holds for whoever watches: written by `sumika.finetune`, read here by name.

A training may write anything there, and who watches is the gateway and the worker of every team: a pipe, a link, a file without
end and JSON of another shape are read as what is not there.
"""

from __future__ import annotations

import json
import math
import os
import stat
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
# Of a file of a run: a report of 10,000 files of data is some 8 MiB, metrics of a million steps are 100 MiB.
_MOST_BYTES = 32 * 2**20
_NAMES = ("code", "param", "en", "ja")


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
    """What the check of such a job found: `memory_bytes` among its figures, or `error`; None before it ended."""
    told = _object(run / CHECKED) or {}
    error = told.get("error")
    if isinstance(error, dict):
        texts = {name: error[name][:_TAIL_BYTES] for name in _NAMES if isinstance(error.get(name), str)}
        return {"error": texts} if {"en", "ja"} <= texts.keys() else None
    return told if type(told.get("memory_bytes")) is int else None


def checkpoints(run: Path) -> list[tuple[int, Path]]:
    """Steps with the folders of their checkpoints, the oldest first, unread."""
    steps = ((path.name.removeprefix("step-"), path) for path in (run / CHECKPOINTS).glob("step-*"))
    return sorted((int(step), path) for step, path in steps if step.isdecimal() and step.isascii())


def progress(run: Path) -> dict[str, Any]:
    """What the run last told of itself, its state and figures; empty before it began."""
    told = _object(run / PROGRESS) or {}
    return {
        name: value for name, value in told.items() if value is None or _is_figure(value) or (name, type(value)) == ("state", str)
    }


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
    return (_read(run / CONFIG) or b"").decode(errors="replace")


def metrics(run: Path) -> list[dict[str, Any]]:
    """The logged steps, the last of very many; a line that a kill cut short is left out."""
    return [line for line in _lines(run / METRICS) if _is_figure(line.get("step"))]


def tail(run: Path, lines: int) -> str:
    """The last lines of the log; progress bars' carriage returns count as line ends."""
    return "\n".join((_read(run / LOG, _TAIL_BYTES, tail=True) or b"").decode(errors="replace").splitlines()[-lines:])


def dotted(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings by dotted key: a configuration or a result, flat."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from dotted(inner, f"{at}.{key}" if at else str(key))
    else:
        yield at, value


def _object(path: Path) -> dict[str, Any] | None:
    try:
        value = _parsed(_read(path) or b"")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in (_read(path, tail=True) or b"").splitlines():
        with suppress(ValueError, RecursionError):
            value = _parsed(line)
            if isinstance(value, dict):
                yield value


def _parsed(text: bytes) -> Any:
    """NaN and the like, which no answer of ours can hold, are None."""
    return json.loads(text, parse_constant=lambda _: None)


def _read(path: Path, most: int = _MOST_BYTES, *, tail: bool = False) -> bytes | None:
    """None where no regular file lies that we may read, or a longer one; of that `tail` reads the end."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or (status.st_size > most and not tail):
            return None
        return os.pread(fd, most, max(0, status.st_size - most))
    finally:
        os.close(fd)


def _is_figure(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
