"""Sums of usage by what somebody asks: team, alias, day, and the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any

from sqlalchemy import Connection, case, func, select

from sumika.models import clock, schema
from sumika.models.errors import SumikaError, quoted

_u = schema.usage
DAY = "day"
COLUMNS = {name: _u.c[name] for name in ("team", "key", "alias", "version", "endpoint", "status")}
_COUNTS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
_SUMS = (
    func.count().label("requests"),
    func.sum(case((_u.c.status >= 400, 1), else_=0)).label("failed"),
    func.sum(case((_u.c.partial, 1), else_=0)).label("partial"),
    func.sum(case((_u.c.estimated, 1), else_=0)).label("estimated"),
    *(func.coalesce(func.sum(_u.c[name]), 0).label(name) for name in _COUNTS),
    func.avg(_u.c.first_ms).label("first_ms"),
    func.avg(_u.c.duration_ms).label("duration_ms"),
)
FIGURES = ("requests", "failed", "partial", "estimated", *_COUNTS, "first_ms", "duration_ms")


@dataclass(frozen=True, slots=True)
class Span:
    """From one moment up to another, which is not part of it; None: no end on that side."""

    since: datetime | None = None
    until: datetime | None = None


def check(by: Sequence[str]) -> None:
    """Raises SumikaError `bad_column`."""
    known = [*COLUMNS, DAY]
    for name in by:
        if name not in known or by.count(name) > 1:
            raise SumikaError(
                "bad_column",
                f"Usage can't be summed by '{quoted(name)}'. Use each at most once: {', '.join(known)}.",
                f"「{quoted(name)}」では集計できません。次の項目をそれぞれ1回まで指定できます: {', '.join(known)}。",
            )


def sums(connection: Connection, by: Sequence[str], span: Span, *, team: str | None = None) -> list[dict[str, Any]]:
    """One dict for each group: the columns of `by`, in its order, and `FIGURES` (means for the `_ms`, milliseconds).
    A day is one of this machine's time zone. `team`: of this one alone.

    Raises:
        SumikaError: `bad_column`.
    """
    check(by)
    if DAY not in by:
        return list(_grouped(connection, by, span, None, team))
    spans = _days(*_bounds(connection, span))
    rows = [row for day, within in spans for row in _grouped(connection, by, within, day, team)]
    return sorted(rows, key=lambda row: [str(row[name] or "") for name in by])


def _grouped(
    connection: Connection, by: Sequence[str], span: Span, day: date | None, team: str | None
) -> Iterator[dict[str, Any]]:
    columns = [COLUMNS[name] for name in by if name != DAY]
    asked = select(*columns, *_SUMS).group_by(*columns).order_by(*columns)
    if team is not None:
        asked = asked.where(_u.c.team == team)
    if span.since is not None:
        asked = asked.where(_u.c.at >= clock.spell(span.since))
    if span.until is not None:
        asked = asked.where(_u.c.at < clock.spell(span.until))
    for row in connection.execute(asked).mappings():
        if row["requests"]:
            named = {name: day.isoformat() if name == DAY and day else row[name] for name in by}
            yield named | {name: _figure(row[name]) for name in FIGURES}


def _figure(value: Any) -> int | None:
    return None if value is None else round(value)


def _bounds(connection: Connection, span: Span) -> tuple[datetime, datetime]:
    """The part of `span` that has rows."""
    first, last = connection.execute(select(func.min(_u.c.at), func.max(_u.c.at))).one()
    if first is None:
        now = datetime.now().astimezone()
        return now, now
    begin, end = clock.parse(first), clock.parse(last) + timedelta(microseconds=1)
    return max(begin, span.since or begin).astimezone(), min(end, span.until or end).astimezone()


def _days(begin: datetime, end: datetime) -> Iterator[tuple[date, Span]]:
    """Each local day between two moments, and what of it lies there. A day may be longer or shorter than 24 hours."""
    day = begin.date()
    while (midnight := datetime.combine(day, time()).astimezone()) < end:
        after = datetime.combine(day + timedelta(days=1), time()).astimezone()
        yield day, Span(max(midnight, begin), min(after, end))
        day += timedelta(days=1)
