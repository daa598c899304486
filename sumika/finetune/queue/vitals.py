"""Whether a training still lives: it computes, or it writes into its folder. One that does neither for minutes hangs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from sumika.models import runfiles

_LOOK_EVERY_S = 2.0
# Of one core: threads that only watch a parent take less, and a training takes more.
_WORK = 0.02
_WRITTEN = (runfiles.PROGRESS, runfiles.METRICS, runfiles.LOG, runfiles.RESULT, runfiles.CHECKPOINTS)


class Vitals:
    """Of the session that `pid` leads, which writes into `run`."""

    def __init__(self, pid: int, run: Path, now: Callable[[], float] = time.monotonic) -> None:
        self._pid, self._run, self._now = pid, run, now
        self._sign_at = self._looked_at = now()
        self._worked, self._wrote = 0.0, self._written()

    def silent_s(self) -> float:
        """Seconds since its last sign of life."""
        now = self._now()
        if now - self._looked_at >= _LOOK_EVERY_S:
            worked, wrote = self._work(), self._written()
            if worked - self._worked > _WORK * (now - self._looked_at) or wrote != self._wrote:
                self._sign_at = now
            self._looked_at, self._worked, self._wrote = now, worked, wrote
        return now - self._sign_at

    def _work(self) -> float:
        """Seconds of processor time that its living processes took."""
        total = 0.0
        for process in psutil.process_iter():
            with suppress(ProcessLookupError, psutil.Error):
                if os.getsid(process.pid) == self._pid:
                    total += sum(process.cpu_times()[:2])
        return total

    def _written(self) -> tuple[tuple[int, int], ...]:
        return tuple(_state(self._run / name) for name in _WRITTEN)


def _state(path: Path) -> tuple[int, int]:
    try:
        status = path.lstat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size
