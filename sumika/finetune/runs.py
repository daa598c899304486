"""A run's folder: a name of its own, the job as it was resolved, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from sumika.finetune.config import JobConfig
from sumika.models import locks, runfiles
from sumika.models.errors import SumikaError, quoted
from sumika.models.home import Home, write_atomically
from sumika.models.runfiles import CONFIG as CONFIG
from sumika.models.runfiles import RESULT as RESULT
from sumika.models.runfiles import dotted as dotted
from sumika.models.runfiles import result as result

EVALUATION = "evaluation.json"


class Stopped(Exception):
    """A run that was asked to stop and saved a checkpoint first; `run` names its folder."""

    def __init__(self, run: str) -> None:
        super().__init__(run)
        self.run = run


def create(config: JobConfig, home: Home) -> Path:
    """A new folder, named for its job and its moment."""
    return runfiles.create(home.runs, config.job.name)


def find(home: Home, name: str) -> Path:
    """The folder of a run that was begun.

    Raises:
        SumikaError: `not_found`.
    """
    folder = home.runs / name
    if Path(name).name != name or not (folder / CONFIG).is_file():
        raise SumikaError(
            "not_found",
            f"There is no run '{quoted(name)}' under {home.runs}. Its folders are the runs that can be resumed.",
            f"{home.runs} に学習「{quoted(name)}」はありません。そこにあるフォルダー名を指定してください。",
            status=404,
        )
    return folder


@contextmanager
def alone_at(folder: Path) -> Iterator[None]:
    """While inside, nobody else trains in `folder`.

    Raises:
        SumikaError: `run_busy` (409), when somebody does.
    """
    with locks.held(lock_of(folder), wait=False) as alone:
        if not alone:
            raise SumikaError(
                "run_busy",
                f"Another process is training in {folder.name}; wait for its end, or see 'sumika finetune list'.",
                f"{folder.name} は別のプロセスが学習中です。終わるまで待つか、sumika finetune list で確認してください。",
                status=409,
            )
        yield


def lock_of(folder: Path) -> Path:
    """Held by whoever trains in `folder`."""
    return folder / ".lock"


def keep_config(folder: Path, config: JobConfig) -> None:
    """Every key as it was resolved, in a file that runs again as it stands: that is the reproduction."""
    text = yaml.safe_dump(config.model_dump(mode="json"), allow_unicode=True, sort_keys=False)
    write_atomically(folder / CONFIG, f"# Use: sumika finetune run {CONFIG}\n{text}".encode(), mode=0o600)


def keep(folder: Path, name: str, value: Any) -> None:
    """Write one of the run's JSON files, whole or not at all."""
    write_atomically(folder / name, json.dumps(value, ensure_ascii=False, indent=1).encode() + b"\n", mode=0o600)
