"""The worker: level-triggered, so that whatever died is seen again at the next turn."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from threading import Event

from sumika.finetune import device, runs
from sumika.finetune.queue.child import Child
from sumika.models import jobs, locks, runfiles
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.jobs import Job
from sumika.models.outage_log import OutageLog
from sumika.models.pools import Pool
from sumika.models.store import Store

log = logging.getLogger(__name__)

_TURN_S = 0.5
_GRACE_S = 300.0
# How often a training that was killed (and not one that failed) is begun again from its checkpoint.
ATTEMPTS = 3
# Exit status of `sumika finetune run`: the gate's no, and stopped after saving.
_REFUSED, _STOPPED = 2, 130


class Worker:
    """Takes jobs in their order, one at a time for each GPU (or one on the CPU), until `stop` is set.

    Its children end with it, having saved a checkpoint; their jobs go back to the queue. One that is killed loses its jobs
    to the next worker once `jobs.LOST_S` have passed. `command`: what trains, given CONFIG, `--run FOLDER` and `--parent PID`.
    """

    def __init__(
        self, store: Store, home: Home, command: Sequence[str], room: Callable[[], Sequence[Pool]] = device.each
    ) -> None:
        self._store, self._home, self._room, self._command = store, home, room, command
        self._name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"[-64:]
        self._children: list[Child] = []
        self._outage = OutageLog(log, "the queue stays as it is, trainings go on")

    def run(self, stop: Event) -> None:
        log.info("worker %s: waiting for training jobs", self._name)
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
            child.end(_GRACE_S)
        status = child.ended()
        if status is not None:
            self._ended(child, status, cancelled=state == "stopping")
            self._children.remove(child)

    def _ended(self, child: Child, status: int, *, cancelled: bool) -> None:
        job, told = child.job, runs.result(child.run)
        checked = runfiles.checked(child.run) if child.prepares else None
        if checked is not None and status == 0 and not cancelled:
            return self._prepared(job, int(checked["memory_bytes"]))
        state: jobs.State
        note = None
        if told is not None and status in (0, _REFUSED):
            state = "refused" if told["gate"] == "refused" else "done"
        elif cancelled:
            state = "cancelled"
        elif status == _STOPPED:
            state = "queued"
        elif status < 0 and job.attempts < ATTEMPTS:
            state, note = "queued", _killed(status, job.attempts)
        else:
            state, note = "failed", (checked or {}).get("error") or _failed(status, child.last_words())
        with self._store.write() as connection:
            jobs.end(connection, job, state, note=note, version=told["version"] if told else None)
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
        with self._store.read() as connection:
            job = jobs.next_up(connection)
        if job is None or self._held(job):
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
            self._children.append(Child(claimed, self._home.runs / claimed.run, self._command))

    def _held(self, job: Job) -> bool:
        """Whether a training of a worker that died is still saving its checkpoint."""
        with locks.held(runs.lock_of(self._home.runs / job.run), wait=False) as free:
            return not free


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
