"""How urgent a request is and whose turn it uses, where requests wait for a full engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sumika.models.errors import SumikaError
from sumika.models.limits import NONE, Limits, Priority
from sumika.models.principals import Principal
from sumika.models.usage.table import Subject
from sumika.serving.fair_queue import PRIORITIES, Turn

_HEADER = b"x-sumika-priority"


def asked(headers: Iterable[tuple[bytes, bytes]]) -> Priority:
    """What the client says; interactive where it says nothing.

    Raises:
        SumikaError: `invalid_priority`.
    """
    for name, value in headers:
        if name == _HEADER:
            told = value.decode("latin-1").strip().lower()
            if told not in PRIORITIES:
                raise SumikaError(
                    "invalid_priority",
                    "x-sumika-priority must be 'interactive' or 'batch'.",
                    "x-sumika-priority には interactive か batch を指定してください。",
                )
            return told
    return "interactive"


def turn(limits: Mapping[Subject, Limits], principal: Principal, wish: Priority, cost: int) -> Turn:
    """`wish`, but never more urgent than key and team may be. Keys without a team are a team of their own each."""
    key = limits.get(("key", principal.id), NONE)
    team = limits.get(("team", principal.team), NONE) if principal.team is not None else NONE
    priority = max(wish, key.priority or "interactive", team.priority or "interactive", key=PRIORITIES.index)
    return Turn(priority, principal.owner, principal.id, cost, team.weight or key.weight or 1, key.weight or 1)
