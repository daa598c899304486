"""Engines write to their logs for as long as they run, and each start begins another one: both are bounded here.

vLLM holds its log open and turns none over, so what is there is copied aside and the file emptied under it; it is opened for appending,
so vLLM goes on at its new end. What it writes in the moment between is lost.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Collection
from pathlib import Path

log = logging.getLogger(__name__)

MOST_BYTES = 32 * 1024 * 1024
# Of engines that run no more.
KEPT = 20


def path(folder: Path, engine_id: str) -> Path:
    return folder / f"engine-{engine_id}.log"


def bound(folder: Path, running: Collection[str]) -> None:
    """Turn over what is too long, and remove the oldest logs of engines that are not `running`; what can't be is tried again later."""
    kept = {path(folder, engine_id) for engine_id in running}
    files = sorted(folder.glob("engine-*.log"), key=_changed_at, reverse=True)
    try:
        for file in files:
            if file.stat().st_size > MOST_BYTES:
                _turn(file)
        for file in [file for file in files if file not in kept][KEPT:]:
            _aside(file).unlink(missing_ok=True)
            file.unlink(missing_ok=True)
    except OSError as error:
        log.warning("logs of engines can't be turned over (%s)", error.strerror)


def _turn(file: Path) -> None:
    temp = file.with_suffix(".log.new")
    temp.touch(mode=0o600)
    shutil.copyfile(file, temp)
    temp.replace(_aside(file))
    os.truncate(file, 0)


def _aside(file: Path) -> Path:
    return file.with_suffix(".log.1")


def _changed_at(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0
