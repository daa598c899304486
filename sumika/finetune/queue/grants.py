"""What a job's training may see beside its own folder: settled before the first attempt, and kept where no training writes.

The job's configuration lies in the run's folder, so a training that was taken over could name there whatever the next attempt of it
should be shown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from sumika.finetune import runs
from sumika.models.home import write_atomically
from sumika.models.jobs import Job
from sumika.models.orders import Asked
from sumika.models.principals import OPERATOR
from sumika.models.sandbox.view import without

_FOLDER = "grants"


@dataclass(frozen=True, slots=True)
class Grants:
    """`base`: NAME@N; `files`: ids of uploads; `data`: files and folders; `mlflow`: name of a tracking server."""

    alias: str
    base: str
    files: list[str]
    data: list[str]
    mlflow: str | None
    network: bool


def kept(folder: Path, job: Job, settle: Callable[[], Grants]) -> Grants:
    """Those of `job`, settled once."""
    file = folder / _FOLDER / f"{job.run}.json"
    try:
        return Grants(**json.loads(file.read_bytes()))
    except FileNotFoundError:
        granted = settle()
    file.parent.mkdir(mode=0o700, exist_ok=True)
    write_atomically(file, json.dumps(asdict(granted)).encode(), mode=0o600)
    return granted


def of(job: Job, order: Asked | None, run: Path, home: Path, newest: Callable[[str], str]) -> Grants:
    """`newest`: the version that the name of a base stands for."""
    if order is not None:
        files = [order.training_file, *([order.validation_file] if order.validation_file else [])]
        return Grants(job.alias or order.name, newest(order.model), files, [], None, network=False)
    config = _read(run / runs.CONFIG)
    mlflow = config.get("track", {}).get("mlflow")
    # What a job from the network names was copied into the run's folder.
    data = [str(path) for path in _data(config, home)] if job.owner == OPERATOR else []
    return Grants(
        job.alias or config.get("serve", {}).get("alias", job.name),
        newest(config.get("base", {}).get("version", "")), [], data, mlflow,
        network=bool(mlflow) or config.get("train", {}).get("gpus", 1) != 1,
    )  # fmt: skip


def _read(file: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return {key: part for key, part in value.items() if isinstance(part, dict)} if isinstance(value, dict) else {}


def _data(config: Any, home: Path) -> Iterator[Path]:
    """The files and folders of a job; nothing that would show it the home itself, or what lies at its top (keys, the database)."""
    for path in map(Path.absolute, _paths(config)):
        real = path.resolve()
        if path.exists() and real.parent != home:
            yield from without(path, home) if home.is_relative_to(real) else [path]


def _paths(config: Any) -> Iterator[Path]:
    """What data.train, evaluate.held_out, and `path` of sources and suites name."""
    if isinstance(config, dict):
        for key, value in config.items():
            named = value if isinstance(value, list) else [value]
            if key in ("path", "train", "held_out"):
                yield from (Path(text) for text in named if isinstance(text, str))
            yield from _paths(value)
    elif isinstance(config, list):
        for value in config:
            yield from _paths(value)
