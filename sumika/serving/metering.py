"""What one gateway worker counts: rows in memory for a moment, then in its journal; a new journal each second, since those that
are closed belong to the clerk (`clerk.py`), who puts them into the table."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from sumika.models import clock
from sumika.models.errors import SumikaError
from sumika.models.store import Store
from sumika.models.usage import journal, table
from sumika.models.usage.journal import Journal
from sumika.models.usage.rows import UsageRow
from sumika.models.usage.table import Subject
from sumika.serving.metrics import Metrics

log = logging.getLogger(__name__)

# What `kill -9` can lose: rows younger than this and the time of one write. What a power cut can: also those written since the
# last sync. Both are within the second that docs/usage.md states.
WRITE_S = 0.1
SYNC_S = 0.5
TURN_S = 1.0
# What may wait in memory while the disk takes nothing.
MOST_WAITING = 100_000


class Metering:
    """The rows of one gateway worker. `run` writes them until `close`.

    `drain` is called each second, in a thread: it sees to it that closed journals come into the table.
    """

    def __init__(self, store: Store, folder: Path, worker_id: str, metrics: Metrics, drain: Callable[[], object]) -> None:
        self._store = store
        self._folder = folder
        self._worker_id = worker_id
        self._metrics = metrics
        self._drain = drain
        self._numbers = itertools.count()
        # Requests that an engine works for, by id: the row of each if this process were killed now; those that no journal tells of yet.
        self._open: dict[str, Callable[[], UsageRow]] = {}
        self._opened: list[str] = []
        self._journal = self._next()
        self._waiting: list[UsageRow] = []
        # Tokens that the table does not know yet, by the journal that holds them; and what it knew when we last looked.
        self._closed: dict[Path, Counter[Subject]] = {}
        self._current: Counter[Subject] = Counter()
        self._live: Counter[Subject] = Counter()
        self._spent: Mapping[Subject, int] = {}
        self._unsynced = False
        self._synced_at = self._turned_at = 0.0
        self._failing = False
        self._stop = asyncio.Event()

    def begin(self, request: str, interrupted: Callable[[], UsageRow]) -> None:
        """A request goes to an engine. Until its row is noted, journals hold `interrupted`, which is counted if this process is killed."""
        if request not in self._open:
            self._opened.append(request)
        self._open[request] = interrupted

    def note(self, row: UsageRow) -> bool:
        """Keep one row; False where there is no room any more, so that it is lost."""
        self._open.pop(row.request, None)
        if len(self._waiting) >= MOST_WAITING:
            self._metrics.usage_lost.inc()
            return False
        self._waiting.append(row)
        for subject in table.subjects(row):
            self._live[subject] += row.tokens
        return True

    def spent(self, subject: Subject) -> int:
        """Tokens of this month, those of other workers as of a few seconds ago; never fewer than there were."""
        return self._spent.get(subject, 0) + self._live[subject]

    async def run(self) -> None:
        """Write what waits until `close`; then the rest."""
        ending = False
        while not ending:
            with suppress(TimeoutError):
                async with asyncio.timeout(WRITE_S):
                    await self._stop.wait()
            ending = self._stop.is_set()
            await self._step(ending=ending)

    def close(self) -> None:
        self._stop.set()

    async def _step(self, *, ending: bool) -> None:
        try:
            await self._write()
            if ending or time.monotonic() - self._turned_at >= TURN_S:
                await self._turn(ending=ending)
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
            self._current += table.tokens_by_subject(batch)
            self._unsynced = True
        await self._write_opened()
        if self._unsynced and time.monotonic() - self._synced_at >= SYNC_S:
            await asyncio.to_thread(self._journal.sync)
            self._unsynced, self._synced_at = False, time.monotonic()

    async def _write_opened(self) -> None:
        """What is over within one step needs no entry."""
        opened = list(self._opened)
        found = [self._open[request] for request in opened if request in self._open]
        if found:
            await asyncio.to_thread(lambda: self._journal.append_open([row() for row in found]))
            self._unsynced = True
        del self._opened[: len(opened)]

    async def _turn(self, *, ending: bool) -> None:
        """Close the journal, so that it may be drained, and see what is in the table by now."""
        if ending:
            await asyncio.to_thread(self._end)
        elif not self._journal.empty:
            fresh = await asyncio.to_thread(self._next)
            try:
                await asyncio.to_thread(self._release)
            except OSError:
                fresh.close(remove=True)
                raise
            self._journal = fresh
        drained, self._spent = await asyncio.to_thread(self._look, table.month_of(clock.now()))
        for path in drained:
            self._live.subtract(self._closed.pop(path))
        self._live += Counter()  # drops what is nought
        self._turned_at = time.monotonic()

    def _next(self) -> Journal:
        """One that tells of all that is open now, so that older ones need not."""
        fresh = journal.create(self._folder, f"{self._worker_id}-{next(self._numbers)}")
        if self._open:
            try:
                fresh.append_open([row() for row in list(self._open.values())])
            except OSError:
                fresh.close(remove=True)
                raise
        return fresh

    def _release(self, *, last: bool = False) -> None:
        if not (last and self._open):  # no later journal would tell of who is open
            self._journal.seal()
            self._unsynced = True
        if self._unsynced:
            self._journal.sync()
        self._closed[self._journal.path], self._current = self._current, Counter()
        self._journal.close(remove=False)
        self._unsynced = False

    def _end(self) -> None:
        if self._journal.empty:
            self._journal.close(remove=True)
        else:
            self._release(last=True)

    def _look(self, month: str) -> tuple[list[Path], Mapping[Subject, int]]:
        """Which journals are gone, and after that what the table holds: rows may be seen in both for a moment, never in neither."""
        self._drain()
        gone = [path for path in self._closed if not path.exists()]
        with self._store.read() as connection:
            return gone, table.spent(connection, month)

    def _fails(self, why: str) -> None:
        if not self._failing:
            log.error("usage can't be written; %d rows wait: %s", len(self._waiting), why)
        self._failing = True
