"""What every route of the admin API shares: who asks, strict bodies, and pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Query, Request
from pydantic import BaseModel, ConfigDict

from sumika.models.actor import Actor
from sumika.models.errors import SumikaError, quoted
from sumika.models.principals import Principal

MOST = 200

_Row = TypeVar("_Row")


class Body(BaseModel):
    """No unknown field, no `true` for 1, no "1" for 1."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


def _asker(request: Request) -> Principal:
    principal: Principal = request.state.principal
    return principal


Asker = Annotated[Principal, Depends(_asker)]
Limit = Annotated[int, Query(ge=1, le=MOST)]
After = Annotated[str, Query(max_length=128)]


def actor(principal: Principal) -> Actor:
    return Actor(principal.id, principal.role, principal.source)


def page(rows: Sequence[_Row], limit: int, cursor: Callable[[_Row], object], shown: Callable[[_Row], Any]) -> dict[str, Any]:
    """The first `limit` of `rows`, which are one more where there are more; `next` goes into `after` of the next request."""
    more = len(rows) > limit
    return {
        "object": "list",
        "data": [shown(row) for row in rows[:limit]],
        "next": str(cursor(rows[limit - 1])) if more else None,
    }


def number(after: str) -> int | None:
    """A cursor that is a row's number.

    Raises:
        SumikaError: `bad_cursor`.
    """
    if not after:
        return None
    if not (after.isascii() and after.isdigit() and len(after) <= 18):
        raise SumikaError(
            "bad_cursor",
            f"after: '{quoted(after, 40)}' is no place in this list; use 'next' of the page before.",
            f"after: 「{quoted(after, 40)}」は不正です。前のページの next を指定してください。",
            param="after",
        )
    return int(after)
