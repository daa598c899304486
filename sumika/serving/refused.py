"""Refused requests and sign-ins, counted by minute, who and why, so that a flood of bad keys is a few rows of the audit log."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

from starlette.types import Scope

from sumika.models.actor import Actor
from sumika.models.audit import Action
from sumika.models.audit.chain import Entry
from sumika.models.principals import Principal
from sumika.serving.peer import address

# Told apart within a minute; further ones are counted together.
MOST = 64
_OTHERS = Actor("peer:others")
_STATUSES = (401, 403)
_CODES = ("sign_in_failed", "too_many_wrong_keys")


class Refused:
    """What one gateway worker refused with 401 and 403, and sign-ins that failed. Who is not known counts as a peer: an
    address; behind a proxy that the settings do not name it is the proxy's."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, Actor, int, str]] = Counter()

    def count(self, scope: Scope, status: int) -> None:
        code = scope["state"].get("code", "")
        if status not in _STATUSES and code not in _CODES:
            return
        key = (_minute(), _who(scope), status, code)
        if key not in self._counts and len(self._counts) >= MOST:
            key = (key[0], _OTHERS, status, code)
        self._counts[key] += 1

    def take(self, *, ending: bool) -> list[Entry]:
        """A row for each of the minutes that are over (all, when `ending`), which are forgotten then."""
        over = [key for key in self._counts if ending or key[0] != _minute()]
        return [_entry(*key, self._counts.pop(key)) for key in over]


def _entry(minute: str, who: Actor, status: int, code: str, count: int) -> Entry:
    details = {"count": count, "minute": minute, "status": status}
    return Entry(Action.AUTH_REFUSED, "gateway", "refused", code, details, who)


def _who(scope: Scope) -> Actor:
    principal: Principal | None = scope["state"].get("principal")
    if principal is not None:
        return Actor(principal.id, principal.role, principal.source)
    return Actor(f"peer:{address(scope) or 'unknown'}")


def _minute() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ")
