"""Usage in the store: rows exactly once by their request's id, and sums by month that budgets are held against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from sumika.models import schema
from sumika.models.usage.rows import UsageRow

Kind = Literal["key", "team", "alias"]
Subject = tuple[Kind, str]

_u = schema.usage
_t = schema.usage_totals
# SQLite takes 32,766 parameters in one statement.
_LOOKED_UP = 500


def add(connection: Connection, rows: Sequence[UsageRow]) -> list[UsageRow]:
    """Rows that are not there yet, and their sums; those rows."""
    known = _known(connection, [row.request for row in rows])
    fresh = list({row.request: row for row in rows if row.request not in known}.values())
    if fresh:
        connection.execute(insert(_u), [row.values() for row in fresh])
        _sum_up(connection, fresh)
    return fresh


def spent(connection: Connection, month: str) -> dict[Subject, int]:
    """Tokens of each key, team and alias in `month` (`2026-11`)."""
    found = connection.execute(select(_t.c.kind, _t.c.name, _t.c.tokens).where(_t.c.month == month))
    return {(row.kind, row.name): row.tokens for row in found}


def month_of(at: str) -> str:
    """The month of a moment in the store's spelling, in this machine's time zone."""
    return datetime.fromisoformat(at).astimezone().strftime("%Y-%m")


def subjects(row: UsageRow) -> list[Subject]:
    """Whom a row counts for."""
    named: list[tuple[Kind, str | None]] = [("key", row.key), ("team", row.team), ("alias", row.alias)]
    return [(kind, name) for kind, name in named if name is not None]


def tokens_by_subject(rows: Iterable[UsageRow]) -> Counter[Subject]:
    counted: Counter[Subject] = Counter()
    for row in rows:
        if row.tokens:
            counted.update(dict.fromkeys(subjects(row), row.tokens))
    return counted


def _known(connection: Connection, requests: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for at in range(0, len(requests), _LOOKED_UP):
        found.update(connection.scalars(select(_u.c.request).where(_u.c.request.in_(requests[at : at + _LOOKED_UP]))))
    return found


def _sum_up(connection: Connection, rows: Sequence[UsageRow]) -> None:
    months: dict[str, str] = {}
    requests: Counter[tuple[str, Kind, str]] = Counter()
    tokens: Counter[tuple[str, Kind, str]] = Counter()
    for row in rows:
        minute = row.at[:16]
        month = months.get(minute) or months.setdefault(minute, month_of(row.at))
        for kind, name in subjects(row):
            requests[month, kind, name] += 1
            tokens[month, kind, name] += row.tokens
    # In one order for everybody, so that two workers can't wait for each other.
    for month, kind, name in sorted(requests):
        of = (month, kind, name)
        _add_to(connection, {"month": month, "kind": kind, "name": name, "requests": requests[of], "tokens": tokens[of]})


def _add_to(connection: Connection, total: Mapping[str, Any]) -> None:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    adding = dialect.insert(_t).values(**total)
    more = {"requests": _t.c.requests + adding.excluded.requests, "tokens": _t.c.tokens + adding.excluded.tokens}
    connection.execute(adding.on_conflict_do_update(index_elements=[_t.c.month, _t.c.kind, _t.c.name], set_=more))
