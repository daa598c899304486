"""Where requests wait for an engine with room, each in the queue of its base; whoever is next is promised the place that gets free."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from sumika.models.errors import SumikaError
from sumika.serving.fair_queue import FairQueue, Fits, Turn, Waiter

RETRY_S = 10


class WaitingRoom:
    """At most `most` wait for each base. `promised`: places given to who waited, by engine, until they are taken."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._queues: dict[int, FairQueue] = {}
        self.promised: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    async def turn(self, base_id: int, alias: str, turn: Turn, fits: Fits, deadline: float) -> str | None:
        """Wait for one's turn until `deadline` (monotonic); the engine that has room then, or None: look again.

        Raises:
            SumikaError: `too_many_waiting`, `waited_too_long` (503).
        """
        waiter = Waiter(turn, asyncio.get_running_loop().create_future(), fits)
        queue = self._queues.setdefault(base_id, FairQueue(self._most))
        leaves = queue.push(waiter)
        if leaves is not None and not leaves.admitted.done():
            leaves.admitted.set_exception(too_many(alias))
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await waiter.admitted
        except TimeoutError:
            raise waited(alias) from None
        finally:
            self._leave(base_id, queue, waiter)

    def _leave(self, base_id: int, queue: FairQueue, waiter: Waiter) -> None:
        queue.discard(waiter)
        if not queue and self._queues.get(base_id) is queue:
            del self._queues[base_id]
        done = waiter.admitted
        engine = done.result() if done.done() and not done.cancelled() and done.exception() is None else None
        if engine is not None:
            self.promised.subtract([engine])
            self.promised += Counter()  # drops what is nought
            # If nobody takes it in this step (the client left), it is somebody else's.
            asyncio.get_running_loop().call_soon(self.admit, base_id)

    def admit_all(self) -> None:
        for base_id in list(self._queues):
            self.admit(base_id)

    def admit(self, base_id: int) -> None:
        """Give what room there is to those whose turn it is."""
        queue = self._queues.get(base_id)
        if queue is None:
            return
        chosen: dict[Waiter, str | None] = {}

        def fits(waiter: Waiter) -> bool:
            does, engine = (True, None) if waiter.admitted.done() else waiter.fits()
            chosen[waiter] = engine
            return does

        while (waiter := queue.pop(fits)) is not None:
            if waiter.admitted.done():  # its client left in this very step
                continue
            engine = chosen[waiter]
            if engine is not None:
                self.promised[engine] += 1
            waiter.admitted.set_result(engine)


def too_many(alias: str) -> SumikaError:
    return SumikaError(
        "too_many_waiting",
        f"Too many requests wait for '{alias}' already; try again in a moment.",
        f"「{alias}」を待っているリクエストが上限に達しています。少し待ってからやり直してください。",
        status=503,
        retry_after=RETRY_S,
    )


def waited(alias: str) -> SumikaError:
    return SumikaError(
        "waited_too_long",
        f"'{alias}' was being changed, or fully in use, for longer than a request may wait; try again in a moment.",
        f"「{alias}」が切り替え中または混雑中で、待機時間内に順番が来ませんでした。少し待ってからやり直してください。",
        status=503,
        retry_after=RETRY_S,
    )
