"""Counters and places of one worker, in its memory.

`limits`' own MemoryStorage takes a lock and a task for each change, and the task looks at every counter there is: 5 µs for one
change, 40 µs where 2,000 counters are held (docs/performance.md). Here nothing waits, so nothing needs a lock.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from sumika.serving.limiting.ledger import COUNTER_S, Ledger


class MemoryLedger(Ledger):
    """What this worker alone knows of. Counters not changed for one to two times `COUNTER_S` are forgotten."""

    def __init__(self) -> None:
        self._young: dict[str, int] = {}
        self._old: dict[str, int] = {}
        self._turned = time.monotonic()
        self._held: Counter[str] = Counter()

    async def add(self, amounts: Mapping[str, int]) -> list[int]:
        if time.monotonic() - self._turned > COUNTER_S:
            self._young, self._old, self._turned = {}, self._young, time.monotonic()
        for name, amount in amounts.items():
            self._young[name] = self._count(name) + amount
        return [self._young[name] for name in amounts]

    async def read(self, names: Sequence[str]) -> list[int]:
        return [self._count(name) for name in names]

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

    def _count(self, name: str) -> int:
        return self._young[name] if name in self._young else self._old.get(name, 0)
