"""One job's training as a process of its own: `sumika finetune run` on the run's folder, its output in `train.log`."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from sumika.finetune import runs
from sumika.models import runfiles
from sumika.models.jobs import Job
from sumika.models.runfiles import LOG as LOG

# What a training may see of our environment.
_PASSED_ON = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "CUDA_HOME", "NVIDIA_VISIBLE_DEVICES", "PYTHONPATH",
)  # fmt: skip


class Child:
    """Started at once; `ended` tells how, and `end` asks it to save and stop. A job that came through the API is prepared first:
    its data read, itself made and checked."""

    def __init__(self, job: Job, run: Path, command: Sequence[str]) -> None:
        self.job, self.run = job, run
        self.prepares = job.memory == 0
        self._kill_at: float | None = None
        fd = os.open(run / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            argv = [
                *command,
                str(run / runs.CONFIG),
                "--run",
                str(run),
                "--parent",
                str(os.getpid()),
                *(["--prepare"] if self.prepares else []),
            ]
            # A session of its own: Ctrl-C at the worker's terminal reaches the worker alone, which asks in order.
            self._process = subprocess.Popen(
                argv, env=_environment(job, os.environ), stdin=subprocess.DEVNULL, stdout=fd, stderr=fd, start_new_session=True
            )
        finally:
            os.close(fd)

    def ended(self) -> int | None:
        """Its exit status (negative: the signal that killed it); None while it runs."""
        if self._kill_at is not None and time.monotonic() > self._kill_at:
            self._signal(signal.SIGKILL)
        return self._process.poll()

    def end(self, grace_s: float) -> None:
        """Ask it to save a checkpoint and stop; after `grace_s` it is killed. Asking again changes nothing."""
        if self._kill_at is None:
            self._kill_at = time.monotonic() + grace_s
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.wait()

    def last_words(self, lines: int = 15) -> str:
        return runfiles.tail(self.run, lines)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def _environment(job: Job, ours: Mapping[str, str]) -> dict[str, str]:
    env = {name: value for name, value in ours.items() if name in _PASSED_ON or name.startswith("SUMIKA_")}
    env |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1"}
    if job.gpu is not None:
        env["CUDA_VISIBLE_DEVICES"] = str(job.gpu)
    return env
