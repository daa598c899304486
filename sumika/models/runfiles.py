"""What lies in a training run's folder, by name: `finetune` writes it, whoever tells of a run reads it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ORDER, CONFIG, CHECKED = "order.json", "config.yaml", "check.json"
PROGRESS, METRICS, RESULT, EVALUATION = "progress.json", "metrics.jsonl", "result.json", "evaluation.json"
CHECKPOINTS = "checkpoints"


def create(runs: Path, job: str) -> Path:
    """A new folder under `runs`, named for its job and its moment."""
    folder = runs / f"{job}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
    folder.mkdir(mode=0o700)
    return folder


def read(folder: Path, name: str) -> dict[str, Any] | None:
    """One of the JSON files; None while it is not there."""
    try:
        told: dict[str, Any] = json.loads((folder / name).read_bytes())
    except FileNotFoundError:
        return None
    return told


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`; one that a kill cut short is left out."""
    try:
        lines = (folder / METRICS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [told for line in lines if (told := _parsed(line)) is not None]


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Steps with the folders of their checkpoints, the oldest first, unread."""
    return sorted((int(path.name.removeprefix("step-")), path) for path in (folder / CHECKPOINTS).glob("step-*"))


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        told: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return told
