"""What one gateway worker counts: rows in memory for a moment, in its journal, then in the table; off the requests' path."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from sumika.models import clock
from sumika.models.errors import SumikaError
from sumika.models.store import Store
from sumika.models.usage import drain, journal, table
from sumika.models.usage.rows import UsageRow
from sumika.models.usage.table import Subject
from sumika.serving.metrics import Metrics

log = logging.getLogger(__name__)

# What `kill -9` can lose: rows younger than this and the time of one write. What a power cut can: also those written since the
# last sync. Both are within the second that docs/usage.md states.
WRITE_S = 0.1
SYNC_S = 0.5
DRAIN_S = 1.0
# What may wait in memory while the disk takes nothing.
MOST_WAITING = 100_000


class Metering:
    """The rows of one gateway worker. `run` writes them until `close`."""

    def __init__(self, store: Store, folder: Path, worker_id: str, metrics: Metrics) -> None:
        self._store = store
        self._folder = folder
        self._metrics = metrics
        self._journal = journal.create(folder, worker_id)
        self._waiting: list[UsageRow] = []
        self._journaled: list[Counter[Subject]] = []
        # Tokens that the table does not know yet, and what it knew when we last looked.
        self._live: Counter[Subject] = Counter()
        self._spent: Mapping[Subject, int] = {}
        self._unsynced = False
        self._synced_at = self._drained_at = 0.0
        self._failing = False
        self._stop = asyncio.Event()

    def note(self, row: UsageRow) -> None:
        """Keep one row; where there is no room any more, only that it was lost."""
        if len(self._waiting) >= MOST_WAITING:
            self._metrics.usage_lost.inc()
            return
        self._waiting.append(row)
        for subject in table.subjects(row):
            self._live[subject] += row.tokens

    def spent(self, subject: Subject) -> int:
        """Tokens of this month, those of other workers as of a few seconds ago."""
        return self._spent.get(subject, 0) + self._live[subject]

    async def run(self) -> None:
        """Write what waits until `close`; then the rest."""
        while not self._stop.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), WRITE_S)
            await self._step(ending=self._stop.is_set())

    def close(self) -> None:
        self._stop.set()

    async def _step(self, *, ending: bool) -> None:
        try:
            await self._write()
            if ending or time.monotonic() - self._drained_at >= DRAIN_S:
                await self._drain()
            if ending:
                self._journal.close(remove=True)
            self._failing = False
        except (OSError, SumikaError) as error:
            self._fails(error.en if isinstance(error, SumikaError) else f"the journal can't be written ({error.strerror})")
        except Exception as error:  # a loop that ended here would count nothing any more
            self._fails(type(error).__name__)

    async def _write(self) -> None:
        batch = list(self._waiting)
        if batch:
            await asyncio.to_thread(self._journal.append, batch)
            del self._waiting[: len(batch)]
            self._journaled.append(table.tokens_by_subject(batch))
            self._unsynced = True
        if self._unsynced and time.monotonic() - self._synced_at >= SYNC_S:
            await asyncio.to_thread(self._journal.sync)
            self._unsynced, self._synced_at = False, time.monotonic()

    async def _drain(self) -> None:
        counted, self._journaled = self._journaled, []
        try:
            month = table.month_of(clock.now())
            spent = await asyncio.to_thread(self._drain_and_look, month)
        except BaseException:
            self._journaled = counted + self._journaled
            raise
        for tokens in counted:
            self._live.subtract(tokens)
        self._live += Counter()  # drops what is nought
        self._spent, self._drained_at = spent, time.monotonic()

    def _drain_and_look(self, month: str) -> Mapping[Subject, int]:
        drain.drain(self._store, self._journal)
        drain.recover(self._store, self._folder)
        with self._store.read() as connection:
            return table.spent(connection, month)

    def _fails(self, why: str) -> None:
        if not self._failing:
            log.error("usage can't be written; %d rows wait: %s", len(self._waiting), why)
        self._failing = True
