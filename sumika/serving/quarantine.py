"""Requests that end engines: one that did so twice is refused for a while, so that others' answers don't end with it a third time.

Which of its requests ended an engine can't be seen from outside. So all that ran are suspects; each is let go again, but one after
another: what kills mostly kills at once, and whoever gets an answer is a suspect no more.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sumika.models.engines import EngineRow
from sumika.models.errors import SumikaError
from sumika.serving.process import ProcessId

log = logging.getLogger(__name__)

_MOST_DEATHS = 2
_FORGOTTEN_AFTER_S = 600.0
# Further ones push out the oldest.
_MOST_SUSPECTS = 4_096
# How long the next suspect waits for the one before.
_ALONE_S = 2.0
# An engine whose core died tells its requests so, and ends a little later.
_DIES_WITHIN_S = 60.0
# A connection breaks this much before its process is seen to be gone.
_DYING_S = 0.05
# That failed and wait to be told by their engine's end; an engine runs no more at once, usually.
_MOST_FAILED = 512


@dataclass(frozen=True, slots=True)
class _Failed:
    """A request that failed at an engine that still lived."""

    mark: bytes
    engine: ProcessId
    at: float


class Quarantine:
    """What one gateway worker knows: hashes of requests, nothing of what they say."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        # How many engines ended, and when the last did; the oldest first.
        self._suspects: OrderedDict[bytes, tuple[int, float]] = OrderedDict()
        self._failed: list[_Failed] = []
        self._one_by_one = asyncio.Lock()

    @asynccontextmanager
    async def turn(self, body: Callable[[], bytes]) -> AsyncIterator[None]:
        """Wait until a request may go to an engine. `body` is what tells it from others; it is asked for only where somebody
        is suspected.

        Raises:
            SumikaError: `request_quarantined`.
        """
        self._settle()
        mark = _mark(body()) if self._suspects else b""
        if mark not in self._suspects:
            yield
            return
        self._check(mark)
        async with _at_most(self._one_by_one, _ALONE_S):
            self._check(mark)  # the one before may have been the same
            yield

    async def failed(self, body: bytes, engine: EngineRow) -> None:
        """A request failed at `engine`, which may have died of it, or be about to."""
        if engine.pid is not None and engine.pid_started is not None:
            self._failed.append(_Failed(_mark(body), ProcessId(engine.pid, engine.pid_started), self._now()))
            del self._failed[:-_MOST_FAILED]
            await asyncio.sleep(_DYING_S)

    def answered(self, body: Callable[[], bytes]) -> None:
        """A request was answered, so it kills no engine."""
        if self._suspects:
            self._suspects.pop(_mark(body()), None)

    def _settle(self) -> None:
        """See which engines have died meanwhile, and forget what is long ago."""
        now, waiting = self._now(), []
        alive = {process: process.alive() for process in {each.engine for each in self._failed}}
        for each in self._failed:
            if not alive[each.engine]:
                self._suspect(each.mark, now)
            elif now - each.at < _DIES_WITHIN_S:
                waiting.append(each)
        self._failed = waiting
        while self._suspects and (len(self._suspects) > _MOST_SUSPECTS or self._oldest() < now - _FORGOTTEN_AFTER_S):
            self._suspects.popitem(last=False)

    def _suspect(self, mark: bytes, now: float) -> None:
        deaths = self._suspects.pop(mark, (0, now))[0] + 1
        self._suspects[mark] = (deaths, now)
        log.warning("a request (%s) ran when an engine ended, for the %d. time", mark.hex()[:12], deaths)

    def _oldest(self) -> float:
        return next(iter(self._suspects.values()))[1]

    def _check(self, mark: bytes) -> None:
        if self._suspects.get(mark, (0, 0.0))[0] >= _MOST_DEATHS:
            raise SumikaError(
                "request_quarantined",
                f"Engines ended {_MOST_DEATHS} times while they answered this request; it is not taken for {_FORGOTTEN_AFTER_S / 60:.0f} minutes. "
                "Change it, and tell your administrator.",
                f"このリクエストの処理中にエンジンが {_MOST_DEATHS} 回停止したため、{_FORGOTTEN_AFTER_S / 60:.0f} 分間受け付けません。"
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


def _mark(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()
