"""Checkpoints that are whole or not there: written aside, hashed, synced, and renamed in one step.

transformers writes straight into `checkpoint-N` and resumes the highest number unchecked (transformers#35525): killed
while it saves, a run goes on from half a file. Here a folder has its name only once all its files are on the disk, and
a resume reads every hash before it believes one.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sumika.models import manifest, runfiles
from sumika.models.errors import SumikaError
from sumika.models.home import sync_folder
from sumika.models.manifest import FileEntry, Hasher
from sumika.models.runfiles import CHECKPOINTS as FOLDER

_PIECE = 8 * 2**20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_WRITERS_WORDS = ("PytorchStreamWriter failed writing", "unexpected pos", "I/O error", "No space left", "File too large")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete one; `step` optimiser steps had been taken when it was written."""

    step: int
    folder: Path


@contextmanager
def writing(run: Path, step: int) -> Iterator[Path]:
    """A folder to write step `step`'s files into; it becomes a checkpoint when the block ends without an error.

    Raises:
        SumikaError: `disk_full`; the older checkpoints are as they were.
    """
    aside = staging(run)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(mode=0o700, parents=True)
    try:
        yield aside
        manifest.write(aside, {path.name: _synced(path) for path in sorted(aside.iterdir())})
        sync_folder(aside)
        target = run / FOLDER / _name(step)
        shutil.rmtree(target, ignore_errors=True)  # of a run that was resumed from an older one and came here again
        os.rename(aside, target)
        sync_folder(target.parent)
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        if _is_full(error):
            raise _disk_full(run, step) from error
        raise


def staging(run: Path) -> Path:
    """Where the checkpoint being written lies."""
    return run / FOLDER / ".writing"


def newest(run: Path) -> Checkpoint | None:
    """The newest checkpoint whose files are all as they were written; None where there is none."""
    return next((one for one in reversed(listed(run)) if _sound(one)), None)


def listed(run: Path) -> list[Checkpoint]:
    """Every checkpoint of a run, oldest first, unread."""
    return [Checkpoint(step, folder) for step, folder in runfiles.checkpoints(run)]


def prune(run: Path, keep: int, also: int | None = None) -> None:
    """Remove all but the newest `keep` checkpoints and step `also`."""
    for one in listed(run)[:-keep]:
        if one.step != also:
            shutil.rmtree(one.folder)


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _synced(path: Path) -> FileEntry:
    hasher = Hasher()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            hasher.update(piece)
        os.fsync(file.fileno())
    return hasher.entry()


def _sound(checkpoint: Checkpoint) -> bool:
    try:
        files = manifest.read(checkpoint.folder)
        return all(_synced(checkpoint.folder / name).sha256 == entry.sha256 for name, entry in files.items())
    except (OSError, SumikaError):
        return False


def _is_full(error: BaseException) -> bool:
    """torch and safetensors tell a disk that takes no more in words of their own, without a number."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    return isinstance(error, Exception) and any(word in str(error) for word in _WRITERS_WORDS)


def _disk_full(run: Path, step: int) -> SumikaError:
    kept = listed(run)
    free = shutil.disk_usage(run).free / 2**20
    en = f"that of step {kept[-1].step} is kept" if kept else "there is no earlier one"
    ja = f"ステップ {kept[-1].step} のものは残っています" if kept else "それ以前のものはありません"
    return SumikaError(
        "disk_full",
        f"The checkpoint of step {step} could not be written: the disk of {run}, or your quota of it, is full ({free:,.0f} MiB free); {en}. "
        f"Make room and go on: sumika finetune resume {run.name}",
        f"ステップ {step} のチェックポイントを書けませんでした。{run} のディスクか割り当てがいっぱいです(空き {free:,.0f} MiB)。{ja}。"
        f"空きを作って再開してください: sumika finetune resume {run.name}",
        status=507,
    )
