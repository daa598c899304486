"""The worker: level-triggered, so that whatever died is seen again at the next turn."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event
from typing import Any

from sumika.finetune import device, runs
from sumika.finetune.queue.child import Child
from sumika.finetune.queue.private import PrivateHome
from sumika.models import audit, jobs, locks, runfiles, sandbox
from sumika.models.audit import Action
from sumika.models.audit.chain import Outcome
from sumika.models.errors import SumikaError
from sumika.models.jobs import Job
from sumika.models.outage_log import OutageLog
from sumika.models.pools import Pool
from sumika.models.settings import Settings
from sumika.models.store import Store

log = logging.getLogger(__name__)

_TURN_S = 0.5
# To save a checkpoint: when the worker ends, and when somebody waits for a job to be cancelled.
_GRACE_S = 300.0
_CANCEL_S = 60.0
# How often a training that was killed (and not one that failed) is begun again from its checkpoint.
ATTEMPTS = 3
# Exit status of `sumika finetune run`: the gate's no, and stopped after saving.
_REFUSED, _STOPPED = 2, 130


class Worker:
    """Takes jobs in their order, one at a time for each GPU (or one on the CPU), until `stop` is set.

    Its children end with it, having saved a checkpoint; their jobs go back to the queue. One that is killed loses its jobs
    to the next worker once `jobs.LOST_S` have passed. `finetune.command` is what trains, given CONFIG, `--run FOLDER` and
    `--parent PID`.
    """

    def __init__(self, store: Store, settings: Settings, room: Callable[[], Sequence[Pool]] = device.each) -> None:
        self._store, self._settings, self._room = store, settings, room
        self._home = settings.layout
        self._sandbox = _sandbox(settings.engine.sandbox)
        self._name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"[-64:]
        self._children: list[Child] = []
        self._outage = OutageLog(log, "the queue stays as it is, trainings go on")

    def run(self, stop: Event) -> None:
        log.info("worker %s: waiting for training jobs, sandbox %s", self._name, self._sandbox)
        try:
            while not stop.is_set():
                self._turn()
                stop.wait(_TURN_S)
            log.info("worker: asking %d trainings to save and stop", len(self._children))
            while self._children:
                for child in self._children:
                    child.end(_GRACE_S)
                self._turn(taking=False)
                time.sleep(_TURN_S)
        finally:
            for child in self._children:
                child.kill()

    def _turn(self, *, taking: bool = True) -> None:
        try:
            for child in list(self._children):
                self._look_after(child)
            if taking:
                self._take()
            self._outage.worked()
        except SumikaError as error:  # a store that is gone for a moment stops no training
            self._outage.failed(error)

    def _look_after(self, child: Child) -> None:
        with self._store.write(quiet=True) as connection:
            state = jobs.beat(connection, child.job)
        if state is None:
            log.error("job %d went to another worker, which thought this one dead; its training here ends", child.job.id)
            child.kill()
            self._children.remove(child)
            return
        if state == "stopping":
            child.end(_CANCEL_S)
        status = child.ended()
        if status is None or (_succeeded(child, status) and not child.register()):
            return
        with self._spoilt(child.job):
            self._ended(child, status, cancelled=state == "stopping")
        self._children.remove(child)

    @contextmanager
    def _spoilt(self, job: Job) -> Iterator[None]:
        """What an attempt left may be anything, and ends that job at most: not the worker, which has other teams' jobs."""
        try:
            yield
        except SumikaError:
            raise
        except Exception as error:  # an edge
            log.error("job %d (%s): what its run's folder holds can't be used (%s)", job.id, job.run, type(error).__name__)
            with self._store.write() as connection:
                jobs.end(connection, job, "failed", note=_unusable(error))

    def _ended(self, child: Child, status: int, *, cancelled: bool) -> None:
        job, told = child.job, runs.result(child.run)
        checked = runfiles.checked(child.run) if child.prepares else None
        if checked is not None and status == 0 and not cancelled:
            return self._prepared(job, int(checked["memory_bytes"]))
        state: jobs.State
        note, version = None, None
        if told is not None and status in (0, _REFUSED):
            state, note, version = _made(child, told)
        elif cancelled:
            state = "cancelled"
        elif status == _STOPPED:
            state = "queued"
        elif child.hung:
            state, note = "failed", _hung(self._settings.finetune.silence_timeout_s)
        elif status < 0 and job.attempts < ATTEMPTS:
            state, note = "queued", _killed(status, job.attempts)
        else:
            state, note = "failed", (checked or {}).get("error") or _failed(status, child.last_words())
        with self._store.write() as connection:
            jobs.end(connection, job, state, note=note, version=version)
            if state != "queued" and not child.prepares:
                details = {"run": job.run, "version": version} if version else {"run": job.run}
                outcome: Outcome = "done" if version else "failed"
                audit.append(
                    connection, Action.FINETUNE_RUN, job.name, outcome=outcome, reason="" if version else state, details=details
                )
        log.info("job %d (%s): %s", job.id, job.run, state)

    def _prepared(self, job: Job, memory: int) -> None:
        with self._store.write() as connection:
            if not jobs.prepared(connection, job, memory):  # cancelled in this very moment
                jobs.end(connection, job, "cancelled")
        log.info("job %d (%s): its data was read and is right", job.id, job.run)

    def _take(self) -> None:
        busy = {child.job.gpu for child in self._children}
        free = [one for one in self._room() if one.gpu not in busy]
        if not free:
            return
        job = self._next()
        if job is None:
            return
        fitting = max(free, key=lambda one: one.free)
        if job.state == "queued" and fitting.free < job.memory:
            with self._store.write(quiet=True) as connection:
                jobs.note(connection, job, *_no_room(job, fitting))
            return
        with self._store.write() as connection:
            claimed = jobs.claim(connection, job, self._name, fitting.gpu)
        if claimed is not None:
            log.info("job %d (%s): attempt %d", claimed.id, claimed.run, claimed.attempts)
            with self._spoilt(claimed):
                self._children.append(self._begun(claimed))

    def _next(self) -> Job | None:
        """The first job that nothing holds."""
        held: list[int] = []
        while True:
            with self._store.read() as connection:
                job = jobs.next_up(connection, held)
            if job is None or not self._held(job):
                return job
            held.append(job.id)

    def _begun(self, job: Job) -> Child:
        finetune = self._settings.finetune
        private = PrivateHome(job, self._store, self._settings)
        return Child(job, self._home.runs / job.run, finetune.command, private, self._sandbox, finetune.silence_timeout_s)

    def _held(self, job: Job) -> bool:
        """Whether a training of a worker that died is still saving its checkpoint."""
        try:
            with locks.held(runs.lock_of(self._home.runs / job.run), wait=False) as free:
                return not free
        except OSError:  # its folder is gone, or no lock can be there: what it begins with says so
            return False


def _sandbox(setting: sandbox.Setting) -> sandbox.Kind:
    """Landlock for trainings, which must see the worker as their parent; bubblewrap would stand between."""
    if setting == "none" or "landlock" not in sandbox.usable():
        if setting != "none":
            log.warning("trainings run without a sandbox and read what this user reads; see docs/operations.md, 'The sandbox'")
        return "none"
    return "landlock"


def _succeeded(child: Child, status: int) -> bool:
    return status in (0, _REFUSED) and runs.result(child.run) is not None


def _made(child: Child, told: dict[str, Any]) -> tuple[jobs.State, dict[str, str] | None, str | None]:
    """What became of a training that ended well: state, note and version."""
    try:
        version = child.registered()
    except SumikaError as error:
        return "failed", {"en": error.en, "ja": error.ja}, None
    gate, ref = (version.gate, str(version.ref)) if version else (str(told.get("gate")), str(told.get("version")))
    return "refused" if gate == "refused" else "done", None, ref


def _hung(silence_s: float) -> dict[str, str]:
    return {
        "en": f"it neither computed nor wrote anything for {silence_s:.0f} s and was killed; 'sumika finetune resume' goes on from its checkpoint",
        "ja": f"{silence_s:.0f} 秒間、計算も書き込みもなかったため終了させました。sumika finetune resume でチェックポイントから再開できます",
    }


def _unusable(error: Exception) -> dict[str, str]:
    kind = type(error).__name__
    return {
        "en": f"what its run's folder holds can't be used ({kind}); submit the job again, or tell your administrator",
        "ja": f"実行フォルダーの内容を利用できません({kind})。ジョブを登録し直すか、管理者に連絡してください",
    }


def _no_room(job: Job, pool: Pool) -> tuple[str, str]:
    needed, there = job.memory / 2**30, pool.free / 2**30
    return (
        f"waits for memory: needs {needed:.1f} GiB, {there:.1f} GiB are free ({pool.name})",
        f"メモリー待ち: 必要量 {needed:.1f} GiB、空き {there:.1f} GiB({pool.name})",
    )


def _killed(status: int, attempt: int) -> dict[str, str]:
    return {
        "en": f"attempt {attempt} was killed by signal {-status}; it goes on from its checkpoint",
        "ja": f"{attempt} 回目がシグナル {-status} で終了しました。チェックポイントから続けます",
    }


def _failed(status: int, last_words: str) -> dict[str, str]:
    how, how_ja = (
        (f"signal {-status}", f"シグナル {-status}") if status < 0 else (f"exit status {status}", f"終了コード {status}")
    )
    return {"en": f"{how}. Last lines:\n{last_words}", "ja": f"{how_ja}。ログの末尾:\n{last_words}"}
