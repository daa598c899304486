"""Who is next where requests wait: interactive before batch, then teams by weight, within a team its keys by weight, then age.

Start-time fair queueing (Goyal, Vin, Cheng 1997): each team has a virtual time that grows by cost / weight with every request
of it that is let in, and the least is next. Who comes back after a pause starts at the present, so nobody saves up turns.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from sumika.models.limits import Priority

# Whether a request should go on now, and to which engine; None: it must look again by itself.
Fits = Callable[[], tuple[bool, str | None]]
PRIORITIES: tuple[Priority, ...] = ("interactive", "batch")


@dataclass(frozen=True, slots=True)
class Turn:
    """Whose turn it is to be. `cost`: tokens that it may take."""

    priority: Priority
    team: str
    key: str
    cost: float
    team_weight: int = 1
    key_weight: int = 1


@dataclass(slots=True, eq=False)
class Waiter:
    """One request that waits; `admitted` tells the engine that has room for it, or None: look again."""

    turn: Turn
    admitted: asyncio.Future[str | None]
    fits: Fits


class _Order(ABC):
    """Waiters, one of which is next."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def push(self, waiter: Waiter) -> None: ...

    @abstractmethod
    def next(self, fits: Callable[[Waiter], bool]) -> Waiter | None: ...

    @abstractmethod
    def newest(self) -> Waiter:
        """The last to come of whoever has most waiting."""

    @abstractmethod
    def remove(self, waiter: Waiter, *, served: bool) -> None:
        """`served`: its turn is used; else it left."""


class _Line(_Order):
    """The requests of one key, the oldest first."""

    def __init__(self) -> None:
        self._waiters: dict[Waiter, None] = {}

    def __len__(self) -> int:
        return len(self._waiters)

    def push(self, waiter: Waiter) -> None:
        self._waiters[waiter] = None

    def next(self, fits: Callable[[Waiter], bool]) -> Waiter | None:
        first = next(iter(self._waiters))
        return first if fits(first) else None

    def newest(self) -> Waiter:
        return next(reversed(self._waiters))

    def remove(self, waiter: Waiter, *, served: bool) -> None:  # noqa: ARG002 - lines keep no time
        del self._waiters[waiter]


class _Shares(_Order):
    """Orders that take turns by weight."""

    def __init__(self, name: Callable[[Turn], str], weight: Callable[[Turn], int], make: Callable[[], _Order]) -> None:
        self._name, self._weight, self._make = name, weight, make
        self._queues: dict[str, _Order] = {}
        self._time: dict[str, float] = {}
        self._now = 0.0

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def size_of(self, turn: Turn) -> int:
        queue = self._queues.get(self._name(turn))
        return len(queue) if queue is not None else 0

    def push(self, waiter: Waiter) -> None:
        name = self._name(waiter.turn)
        if name not in self._queues:
            self._queues[name] = self._make()
            self._time[name] = max(self._now, self._time.get(name, 0.0))
        self._queues[name].push(waiter)

    def next(self, fits: Callable[[Waiter], bool]) -> Waiter | None:
        for name in sorted(self._queues, key=self._time.__getitem__):
            found = self._queues[name].next(fits)
            if found is not None:
                return found
        return None

    def newest(self) -> Waiter:
        return max(self._queues.values(), key=len).newest()

    def remove(self, waiter: Waiter, *, served: bool) -> None:
        name = self._name(waiter.turn)
        self._queues[name].remove(waiter, served=served)
        if served:
            self._now = max(self._now, self._time[name])
            self._time[name] += waiter.turn.cost / self._weight(waiter.turn)
        if not self._queues[name]:
            del self._queues[name]
            # Their time matters only while it lies ahead of everybody's.
            self._time = {n: t for n, t in self._time.items() if n in self._queues or t > self._now}


def _keys() -> _Shares:
    return _Shares(lambda turn: turn.key, lambda turn: turn.key_weight, _Line)


def _teams() -> _Shares:
    return _Shares(lambda turn: turn.team, lambda turn: turn.team_weight, _keys)


class FairQueue:
    """At most `most` waiters."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._levels = {priority: _teams() for priority in PRIORITIES}
        self._in: set[Waiter] = set()

    def __len__(self) -> int:
        return len(self._in)

    def push(self, waiter: Waiter) -> Waiter | None:
        """Let in at the end of its line; whoever must leave for it, which may be itself: a full queue gives up batch before
        interactive, and the team that has most waiting before the others."""
        leaves = None
        if len(self._in) >= self._most:
            leaves = self._given_up_for(waiter.turn)
            if leaves is None:
                return waiter
            self.discard(leaves)
        self._levels[waiter.turn.priority].push(waiter)
        self._in.add(waiter)
        return leaves

    def pop(self, fits: Callable[[Waiter], bool]) -> Waiter | None:
        """The next one of those that `fits`; only the oldest of each key is asked."""
        for level in self._levels.values():
            found = level.next(fits)
            if found is not None:
                level.remove(found, served=True)
                self._in.remove(found)
                return found
        return None

    def discard(self, waiter: Waiter) -> None:
        """Out of the queue, if it is in."""
        if waiter in self._in:
            self._levels[waiter.turn.priority].remove(waiter, served=False)
            self._in.remove(waiter)

    def _given_up_for(self, turn: Turn) -> Waiter | None:
        batch, level = self._levels["batch"], self._levels[turn.priority]
        if turn.priority != "batch" and batch:
            return batch.newest()
        if not level:
            return None
        newest = level.newest()
        return newest if level.size_of(newest.turn) > level.size_of(turn) + 1 else None
