"""Counters and places of one worker, in its memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from limits.aio.storage import MemoryStorage

from sumika.serving.limiting.ledger import COUNTER_S, Ledger


class MemoryLedger(Ledger):
    """What this worker alone knows of."""

    def __init__(self) -> None:
        self._counters = MemoryStorage()
        self._held: Counter[str] = Counter()

    async def add(self, amounts: Mapping[str, int]) -> list[int]:
        return [await self._counters.incr(name, COUNTER_S, amount) for name, amount in amounts.items()]

    async def read(self, names: Sequence[str]) -> list[int]:
        return [await self._counters.get(name) for name in names]

    async def take(self, place: str, most: Mapping[str, int]) -> str | None:  # noqa: ARG002 - one worker needs no names
        for name, limit in most.items():
            if self._held[name] >= limit:
                return name
        self._held.update(most.keys())
        return None

    async def leave(self, place: str, names: Sequence[str]) -> None:  # noqa: ARG002
        self._held.subtract(names)
        for name in names:
            if self._held[name] <= 0:
                del self._held[name]

    async def close(self) -> None:
        pass
