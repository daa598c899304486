"""The last day as an operator watches it: requests, errors, tokens and time to first token, in slots of ten minutes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, case, func, select

from sumika.models import clock, schema
from sumika.models.teams import Team

DAY = timedelta(hours=24)
SLOT = timedelta(minutes=10)
# What "now" is taken over.
NOW = timedelta(seconds=60)
_u = schema.usage
# "2026-11-23T17:4": the tens of minutes of a moment in the store's spelling.
_LENGTH = 15
_FIGURES = (
    func.count().label("requests"),
    func.coalesce(func.sum(case((_u.c.status >= 400, 1), else_=0)), 0).label("failed"),
    func.coalesce(func.sum(_u.c.prompt_tokens), 0).label("prompt_tokens"),
    func.coalesce(func.sum(_u.c.completion_tokens), 0).label("completion_tokens"),
    func.avg(_u.c.first_ms).label("first_ms"),
)


def recent(connection: Connection, now: datetime | None = None, *, of: Team | None = None) -> list[dict[str, Any]]:
    """`of`: of this team's requests alone, since it is there. Each slot of the last day up to `now`, the oldest first, those without requests too. `at`: its beginning; `first_ms`: mean
    time to the first byte, None where nothing was answered."""
    now = now or datetime.now(UTC)
    first = _floor(now - DAY)
    slot = func.substr(_u.c.at, 1, _LENGTH)
    query = select(slot.label("slot"), *_FIGURES).where(_u.c.at >= clock.spell(first), *_asked_by(of)).group_by(slot)
    found = {row["slot"]: row for row in connection.execute(query).mappings()}
    starts = (first + n * SLOT for n in range(int((now - first) / SLOT) + 1))
    return [{"at": clock.spell(at), **_told(found.get(clock.spell(at)[:_LENGTH]))} for at in starts]


def lately(connection: Connection, now: datetime | None = None, *, of: Team | None = None) -> dict[str, Any]:
    """The same figures of the requests that came in the last minute, and answered tokens a second."""
    now = now or datetime.now(UTC)
    row = connection.execute(select(*_FIGURES).where(_u.c.at >= clock.spell(now - NOW), *_asked_by(of))).mappings().one()
    return _told(row) | {"tokens_per_s": round(row["completion_tokens"] / NOW.total_seconds(), 1)}


def _asked_by(team: Team | None) -> list[ColumnElement[bool]]:
    return [] if team is None else [_u.c.team == team.name, _u.c.at >= team.created_at]


def _floor(moment: datetime) -> datetime:
    return moment - timedelta(minutes=moment.minute % 10, seconds=moment.second, microseconds=moment.microsecond)


def _told(row: Any) -> dict[str, Any]:
    if row is None:
        return {"requests": 0, "failed": 0, "prompt_tokens": 0, "completion_tokens": 0, "first_ms": None}
    figures = {name: int(row[name]) for name in ("requests", "failed", "prompt_tokens", "completion_tokens")}
    return figures | {"first_ms": None if row["first_ms"] is None else round(row["first_ms"])}
