"""The bulk worker: of all gateway workers the one that holds the lease runs the batches and sweeps files away."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from sumika.models import batches, files, leases
from sumika.models.actor import SYSTEM
from sumika.models.batches import Batch
from sumika.models.errors import SumikaError
from sumika.models.leases import Lease
from sumika.serving.bulk import endings
from sumika.serving.bulk.run import Means, Run

log = logging.getLogger(__name__)

LEASE = "batches"
_TURN_S = 1.0
# A worker that was killed is replaced within this; one that was paused for longer finds its lease gone.
_LEASE_S = 10.0
_RENEW_S = 3.0
# Batches at once, so that one that waits for room does not hold up the others.
_MOST_RUNS = 16
_MOST_FAULTS = 3
# The store or the disk is away for a moment, or another worker took over.
_PASSING = ("store_unavailable", "fenced", "disk_full")
_SWEEP_S = 60.0
# What nobody wrote to for so long, and no row names, was left by a crash.
_LEFT_S = 3600.0
# For requests under way when the gateway ends.
_ENDING_S = 5.0


@dataclass(slots=True)
class _Held:
    """A lease of ours, and until when (monotonic) it surely is."""

    lease: Lease
    until: float
    renewed: float


class BulkWorker:
    """`run` until cancelled, then `close`."""

    def __init__(self, means: Means, name: str) -> None:
        self._means = means
        self._name = name
        self._held: _Held | None = None
        self._runs: dict[str, tuple[Run, asyncio.Task[None]]] = {}
        self._faults: Counter[str] = Counter()
        self._troubled: set[str] = set()
        self._swept = 0.0
        self._well = True

    async def run(self) -> None:
        while True:
            try:
                await self._turn()
                self._well = True
            except SumikaError as error:
                self._tell(error.en)
            except Exception as error:  # a loop that ended here would run no batch any more
                self._tell(type(error).__name__)
            await asyncio.sleep(_TURN_S)

    async def close(self) -> None:
        """Let what is under way end, for a moment; then another worker goes on."""
        for run, _ in self._runs.values():
            run.leave(at_once=False)
        tasks = [task for _, task in self._runs.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=_ENDING_S)
        await self._leave_all()
        if self._held is not None:
            await asyncio.to_thread(self._give_back, self._held.lease)

    async def _turn(self) -> None:
        await self._keep_lease()
        if self._held is None:
            await self._leave_all()
            return
        await self._reap()
        if len(self._runs) < _MOST_RUNS:
            await self._take_up(self._held.lease)
        if time.monotonic() - self._swept > _SWEEP_S:
            await asyncio.to_thread(self._sweep)
            self._swept = time.monotonic()

    async def _keep_lease(self) -> None:
        """Ours is renewed while it is young; one that can't be renewed in time is nobody's."""
        began = time.monotonic()
        if self._held is not None and began - self._held.renewed < _RENEW_S:
            return
        try:
            lease = await asyncio.to_thread(self._take)
        except SumikaError:
            if self._held is not None and began >= self._held.until:
                self._held = None
                await self._leave_all()
            raise
        if self._held is not None and lease != self._held.lease:
            await self._leave_all()
        self._held = None if lease is None else _Held(lease, began + _LEASE_S, began)

    def _take(self) -> Lease | None:
        with self._means.store.write(quiet=True, by=SYSTEM) as connection:
            return leases.take(connection, LEASE, self._name, _LEASE_S)

    def _give_back(self, lease: Lease) -> None:
        try:
            with self._means.store.write(quiet=True, by=SYSTEM) as connection:
                leases.give_back(connection, lease)
        except SumikaError as error:  # it runs out by itself
            log.error("bulk worker: %s", error.en)

    async def _take_up(self, lease: Lease) -> None:
        waiting = [batch for batch in await asyncio.to_thread(self._open) if batch.id not in self._runs]
        while waiting and len(self._runs) < _MOST_RUNS:
            running = Counter(run.batch.owner for run, _ in self._runs.values())
            batch = min(waiting, key=lambda one: running[one.owner])  # the oldest of whoever has fewest
            waiting.remove(batch)
            run = Run(self._means, batch, lease)
            self._runs[batch.id] = (run, asyncio.create_task(run.run()))

    def _open(self) -> list[Batch]:
        with self._means.store.read() as connection:
            return batches.list_open(connection)

    async def _reap(self) -> None:
        for batch_id, (run, task) in list(self._runs.items()):
            if task.done():
                del self._runs[batch_id]
                error = None if task.cancelled() else task.exception()
                if error is not None:
                    await self._failed(run.batch, error)

    async def _failed(self, batch: Batch, error: BaseException) -> None:
        if isinstance(error, OSError) or (isinstance(error, SumikaError) and error.code in _PASSING):  # it is taken up again
            if batch.id not in self._troubled:
                log.error("batch %s: %s; it is tried again", batch.id, error)
            self._troubled.add(batch.id)
            return
        self._faults[batch.id] += 1
        log.error("batch %s met a fault of the gateway: %s", batch.id, type(error).__name__, exc_info=error)
        if self._faults[batch.id] >= _MOST_FAULTS and self._held is not None:
            await asyncio.to_thread(self._give_up, batch, self._held.lease)

    def _give_up(self, batch: Batch, lease: Lease) -> None:
        error = endings.FAULT.error
        why = [{"code": error.code, "line": None, "message": error.text(batch.language), "param": None}]
        with self._means.store.write(by=SYSTEM) as connection:
            leases.check(connection, lease)
            batches.end(connection, batch, "failed", errors=why)

    async def _leave_all(self) -> None:
        for run, _ in self._runs.values():
            run.leave(at_once=True)
        tasks = [task for _, task in self._runs.values()]
        self._runs.clear()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_ENDING_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _sweep(self) -> None:
        with self._means.store.read() as connection:
            over = files.expired(connection)
        if over:
            with self._means.store.write(by=SYSTEM) as connection:
                over = files.expired(connection)
                for file in over:
                    files.remove(connection, file)
        with self._means.store.read() as connection:
            known, living = files.ids(connection), {batch.id for batch in batches.list_open(connection)}
        for file in over:
            self._means.shelf.drop(file.id)
        self._means.shelf.sweep(known, _LEFT_S)
        _sweep_folders(self._means.home.batches, living)

    def _tell(self, why: str) -> None:
        if self._well:
            log.error("bulk worker: %s", why)
        self._well = False


def _sweep_folders(folder: Path, living: set[str]) -> None:
    """Answers of batches that have ended: a worker was killed between the end and their removal."""
    for path in folder.iterdir():
        if path.name not in living and time.time() - path.stat().st_mtime > _LEFT_S:
            shutil.rmtree(path, ignore_errors=True)
