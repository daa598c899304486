"""Refused sign-ins, counted by minute, peer and status, so that a flood of bad keys is a few rows of the audit log."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

from starlette.types import Scope

from sumika.models.actor import Actor
from sumika.models.audit import Action
from sumika.models.audit.chain import Entry

# Told apart within a minute; further peers are counted together.
MOST_PEERS = 64
_OTHERS = "others"


class Refused:
    """What one gateway worker refused with 401 and 403. A peer is an address; behind a proxy that is the proxy's."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str, int]] = Counter()

    def count(self, scope: Scope, status: int) -> None:
        client = scope.get("client")
        key = (_minute(), str(client[0]) if client else "unknown", status)
        if key not in self._counts and len(self._counts) >= MOST_PEERS:
            key = (key[0], _OTHERS, status)
        self._counts[key] += 1

    def take(self, *, ending: bool) -> list[Entry]:
        """A row for each peer of the minutes that are over (all, when `ending`), which are forgotten then."""
        over = [key for key in self._counts if ending or key[0] != _minute()]
        return [_entry(*key, self._counts.pop(key)) for key in over]


def _entry(minute: str, peer: str, status: int, count: int) -> Entry:
    details = {"count": count, "minute": minute, "status": status}
    return Entry(Action.AUTH_REFUSED, "gateway", "refused", details=details, actor=Actor(f"peer:{peer}"))


def _minute() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ")
