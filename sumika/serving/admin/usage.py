"""`/admin/v1/usage`: who used how much; `/admin/v1/activity`: the last day, as an operator watches it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response
from sqlalchemy import Connection

from sumika.models import clock, people, spreadsheet, teams
from sumika.models.audit import Action
from sumika.models.errors import SumikaError, quoted
from sumika.models.principals import Principal
from sumika.models.store import LONG_STATEMENT_S, Store
from sumika.models.teams import Team
from sumika.models.usage import activity, report
from sumika.models.usage.report import Span
from sumika.serving.admin.asking import Asker, Limit, page
from sumika.serving.lookups import Lookups

# Nobody's requests.
_NO_TEAM = Team("", "", "", "")
Day = Annotated[str, Query(max_length=40)]


def router(store: Store) -> APIRouter:
    routes, lookups = APIRouter(), Lookups(store)

    def summed(who: Principal, by: str, since: str, until: str) -> tuple[list[str], list[dict[str, Any]]]:
        """The columns asked for, and the rows that `who` may see."""
        names = [name.strip() for name in by.split(",") if name.strip()]
        lookups.note(who, Action.USAGE_READ, ",".join(names), {"since": since, "until": until})
        span, team = Span(moment(since, "since"), moment(until, "until")), None if who.role == "admin" else who.team or ""
        with store.read(statement_s=LONG_STATEMENT_S) as connection:
            rows = report.sums(connection, names, span if team is None else _since_it_is_there(connection, team, span), team=team)
            called = people.names(connection, {row["key"] for row in rows}) if "key" in names else {}
        return names, [row | ({"key_name": called.get(row["key"])} if "key" in names else {}) for row in rows]

    @routes.get("/usage")
    def usage(
        who: Asker, by: Annotated[str, Query(max_length=100)] = "team,alias,day", since: Day = "", until: Day = "",
        limit: Limit = 200, after: Annotated[str, Query(max_length=9, pattern="^[0-9]*$")] = "",
    ) -> dict[str, Any]:  # fmt: skip
        """An administrator's is all; an engineer's the one of their own team. `after` counts rows."""
        begin = int(after or 0)
        names, found = summed(who, by, since, until)
        numbered = list(enumerate(found, start=1))[begin : begin + limit + 1]
        now = datetime.now().astimezone()
        return page(numbered, limit, lambda row: row[0], lambda row: row[1]) | {"by": names, "time_zone": now.strftime("%Z %z")}

    @routes.get("/usage/csv")
    def as_file(
        who: Asker, by: Annotated[str, Query(max_length=100)] = "team,alias,day", since: Day = "", until: Day = ""
    ) -> Response:
        """The same rows whole, as `sumika usage --csv` writes them."""
        names, rows = summed(who, by, since, until)
        columns = [*names, *(["key_name"] if "key" in names else []), *report.FIGURES]
        text = spreadsheet.as_csv(columns, ([row[name] for name in columns] for row in rows))
        headers = {"content-disposition": f'attachment; filename="sumika-usage-{clock.now()[:10]}.csv"'}
        return Response(text, media_type="text/csv; charset=utf-8", headers=headers)

    @routes.get("/activity")
    def recent(who: Asker) -> dict[str, Any]:
        """As the usage: an administrator's is all, an engineer's the one of their own team."""
        with store.read() as connection:
            of = None if who.role == "admin" else teams.find(connection, who.team or "") or _NO_TEAM
            slots, now = activity.recent(connection, of=of), activity.lately(connection, of=of)
        return {"slot_s": int(activity.SLOT.total_seconds()), "now": now, "data": slots}

    return routes


def _since_it_is_there(connection: Connection, team: str, span: Span) -> Span:
    """What an older team of the same name used is not this one's to see."""
    found = teams.find(connection, team)
    made = clock.parse(found.created_at) if found else datetime.now(UTC)
    return Span(made if span.since is None else max(made, span.since), span.until)


def moment(given: str, field: str) -> datetime | None:
    """A moment, or the midnight that begins a day of this machine's time zone.

    Raises:
        SumikaError: `bad_moment`.
    """
    if not given:
        return None
    try:
        return datetime.fromisoformat(given).astimezone()
    except (ValueError, OverflowError):
        raise SumikaError(
            "bad_moment",
            f"{field}: '{quoted(given, 40)}' is no date. Write 2026-11-01, or 2026-11-01T09:00:00+09:00.",
            f"{field}: 「{quoted(given, 40)}」は日付として読めません。2026-11-01 または 2026-11-01T09:00:00+09:00 の形で指定してください。",
            param=field,
        ) from None
