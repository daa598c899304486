"""One job's training as a process of its own: `sumika finetune run` on the run's folder, its output in `train.log`."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from sumika.finetune import runs
from sumika.finetune.queue.private import PrivateHome
from sumika.finetune.queue.vitals import Vitals
from sumika.models import runfiles, sandbox
from sumika.models.errors import SumikaError
from sumika.models.jobs import Job
from sumika.models.registry import Version
from sumika.models.runfiles import LOG as LOG

# What a training may see of our environment.
_PASSED_ON = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "CUDA_HOME", "NVIDIA_VISIBLE_DEVICES", "PYTHONPATH",
    "SUMIKA_LANG",
)  # fmt: skip


# After it was asked to end, one that neither computes nor writes has nothing to save.
_NOTHING_TO_SAVE_S = 10.0
# Of its output, so much is kept, and as much again for what comes until it is looked at.
_LONGEST_LOG = 16 * 2**20


class Child:
    """Started at once; `ended` tells how, and `end` asks it to save and stop. A job that came through the API is prepared first:
    its data read, itself made and checked.

    It runs with `private` as its home, in a sandbox of `kind`; one that gave no sign of life for `silence_s` is killed.
    """

    def __init__(
        self, job: Job, run: Path, command: Sequence[str], private: PrivateHome, kind: sandbox.Kind, silence_s: float
    ) -> None:
        self.job, self.run = job, run
        self._private, self._silence_s = private, silence_s
        self.hung = False
        self._registering: threading.Thread | None = None
        self._registered: Version | SumikaError | None = None
        self.prepares = job.memory == 0
        self._kill_at: float | None = None
        self._swept = False
        view = private.make()
        # Not blocking: where an attempt before this one left a pipe, nobody reads it.
        fd = os.open(run / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
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
            argv, env = sandbox.inside(kind, argv, {**_environment(job, os.environ), **private.environment()}, view)
            # A session of its own: Ctrl-C at the worker's terminal reaches the worker alone, which asks in order.
            self._process = subprocess.Popen(
                argv, env=env, stdin=subprocess.DEVNULL, stdout=fd, stderr=fd, start_new_session=True
            )
        finally:
            os.close(fd)
        self._vitals = Vitals(self._process.pid, run)

    def ended(self) -> int | None:
        """Its exit status (negative: the signal that killed it); None while it runs."""
        status = self._process.poll()
        if status is None:
            self._bound_log()
            silent = self._vitals.silent_s()
            ending = self._kill_at is not None
            if ending and (silent > _NOTHING_TO_SAVE_S or time.monotonic() > (self._kill_at or 0)):
                self._signal(signal.SIGKILL)
            elif not ending and silent > self._silence_s:
                self.hung = True
                self._signal(signal.SIGKILL)
        elif not self._swept:
            self._swept = True
            self._signal(signal.SIGKILL)  # what it left behind in its session
        return status

    def register(self) -> bool:
        """Take what it made into the registry, in a thread of its own: large adapters take a while. Whether that is over."""
        if self._registering is None:
            self._registering = threading.Thread(target=self._register, daemon=True)
            self._registering.start()
        return not self._registering.is_alive()

    def registered(self) -> Version | None:
        """Raises SumikaError: why it was not taken."""
        if isinstance(self._registered, SumikaError):
            raise self._registered
        return self._registered

    def _register(self) -> None:
        try:
            self._registered = self._private.register()
        except SumikaError as error:
            self._registered = error
        except Exception as error:  # an edge: what a training left may be anything
            self._registered = SumikaError(
                "bad_result", f"What the training left can't be read ({type(error).__name__}). Resume the job.",
                f"学習の結果を読めません({type(error).__name__})。ジョブを再開してください。",
            )  # fmt: skip

    def _bound_log(self) -> None:
        log = self.run / LOG
        with suppress(OSError):
            if log.lstat().st_size > 2 * _LONGEST_LOG:
                with log.open("r+b") as file:  # it appends, and goes on at the new end
                    file.seek(-_LONGEST_LOG, os.SEEK_END)
                    kept = file.read(_LONGEST_LOG)
                    file.seek(0)
                    file.write(b"(what came before was left out)\n" + kept)
                    file.truncate()

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
    env = {name: value for name, value in ours.items() if name in _PASSED_ON}
    env |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONUNBUFFERED": "1"}
    if job.gpu is not None:
        env["CUDA_VISIBLE_DEVICES"] = str(job.gpu)
    return env
