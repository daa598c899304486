"""Where it is written how much was used: counters that end by themselves, and places that only so many may hold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

# A counter is one minute's, and counts in the minute after too.
COUNTER_S = 130


class Ledger(ABC):
    """Counters and places by name. Methods may raise `LedgerGone`."""

    @abstractmethod
    async def add(self, amounts: Mapping[str, int]) -> list[int]:
        """Add to counters (also less than nought) and give what they hold then, in this order."""

    @abstractmethod
    async def read(self, names: Sequence[str]) -> list[int]:
        """What counters hold."""

    @abstractmethod
    async def take(self, place: str, most: Mapping[str, int]) -> str | None:
        """Hold a place of each of these names, each of which has so many; or none, and the name that is full."""

    @abstractmethod
    async def leave(self, place: str, names: Sequence[str]) -> None:
        """Give back what `take` gave."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of connections."""


class LedgerGone(Exception):
    """The server that keeps it does not answer."""
