"""Requests that end engines: one that did so twice is refused for a while, so that others' answers don't end with it a third time.

Which of its requests ended an engine can't be seen from outside. So all that ran are suspects; each is let go again, but one after
another: what kills mostly kills at once, and whoever gets an answer is a suspect no more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sumika.models.engines import EngineRow
from sumika.models.errors import SumikaError
from sumika.serving import suspects
from sumika.serving.process import ProcessId
from sumika.serving.suspects import FORGOTTEN_AFTER_S, Suspects

log = logging.getLogger(__name__)

_MOST_DEATHS = 2
# How long the next suspect waits for the one before.
_ALONE_S = 2.0
# An engine whose core died tells its requests so, and ends a little later.
_DIES_WITHIN_S = 60.0
# A connection breaks a moment before its process is seen to be gone.
_LOOKS, _LOOK_S = 10, 0.05
# That failed and wait to be told by their engine's end; an engine runs no more at once, usually.
_MOST_FAILED = 512


@dataclass(frozen=True, slots=True)
class _Failed:
    """A request that failed at an engine that still lived."""

    mark: bytes
    engine: ProcessId
    at: float


class Quarantine:
    """What one gateway worker does with its requests, by what all workers know."""

    def __init__(self, known: Suspects, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._suspects = known
        self._failed: list[_Failed] = []
        self._one_by_one = asyncio.Lock()

    @asynccontextmanager
    async def turn(self, body: Callable[[], bytes], owner: str = "") -> AsyncIterator[None]:
        """Wait until a request of `owner` may go to an engine. `body` is what tells it from others; it is asked for only where somebody
        is suspected.

        Raises:
            SumikaError: `request_quarantined`.
        """
        self._settle()
        mark = suspects.mark(body(), owner) if self._suspects else b""
        if mark not in self._suspects:
            yield
            return
        self._check(mark)
        async with _at_most(self._one_by_one, _ALONE_S):
            self._check(mark)  # the one before may have been the same
            yield

    async def failed(self, body: bytes, engine: EngineRow, owner: str = "", *, lost: bool = False) -> None:
        """A request of `owner` failed at `engine`, which may have died of it, or be about to. Where the connection is `lost`, wait a moment
        for its end, so that whoever tries another engine is known by then."""
        if engine.pid is None or engine.pid_started is None:
            return
        process = ProcessId(engine.pid, engine.pid_started)
        self._failed.append(_Failed(suspects.mark(body, owner), process, self._now()))
        del self._failed[:-_MOST_FAILED]
        looks = _LOOKS if lost else 0
        while looks and process.alive():
            looks -= 1
            await asyncio.sleep(_LOOK_S)
        self._settle()  # the next worker that it goes to may be another

    def answered(self, body: Callable[[], bytes]) -> None:
        """A request was answered, so it kills no engine, whoever sends it."""
        if self._suspects:
            self._suspects.clear(suspects.mark(body(), ""))

    def _settle(self) -> None:
        """See which engines have died meanwhile, and forget what is long ago."""
        now, waiting = self._now(), []
        alive = {process: process.alive() for process in {each.engine for each in self._failed}}
        for each in self._failed:
            if not alive[each.engine]:
                self._suspect(each.mark, each.engine)
            elif now - each.at < _DIES_WITHIN_S:
                waiting.append(each)
        self._failed = waiting
        self._suspects.refresh()

    def _suspect(self, mark: bytes, engine: ProcessId) -> None:
        if self._suspects.ran(mark, engine):  # the same text may have run there many times
            log.warning("a request (%s) ran when an engine ended, for the %d. time", mark.hex()[:12], self._suspects.deaths(mark))

    def _check(self, mark: bytes) -> None:
        if self._suspects.deaths(mark) >= _MOST_DEATHS:
            raise SumikaError(
                "request_quarantined",
                f"Engines ended {_MOST_DEATHS} times while they answered this request; it is not taken for {FORGOTTEN_AFTER_S / 60:.0f} minutes. "
                "Change it, and tell your administrator.",
                f"このリクエストの処理中にエンジンが {_MOST_DEATHS} 回停止したため、{FORGOTTEN_AFTER_S / 60:.0f} 分間受け付けません。"
                "内容を変えて送るか、管理者に連絡してください。",
            )  # fmt: skip


@asynccontextmanager
async def _at_most(lock: asyncio.Lock, seconds: float) -> AsyncIterator[None]:
    """Hold `lock`, but no longer than that, however long what is inside takes."""
    await lock.acquire()
    held = True

    def let_go() -> None:
        nonlocal held
        if held:
            held = False
            lock.release()

    timer = asyncio.get_running_loop().call_later(seconds, let_go)
    try:
        yield
    finally:
        timer.cancel()
        let_go()
