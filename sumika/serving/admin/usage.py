"""`/admin/v1/usage`: who used how much; `/admin/v1/activity`: the last day, as an operator watches it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query

from sumika.models import keys
from sumika.models.errors import SumikaError, quoted
from sumika.models.store import Store
from sumika.models.usage import activity, report
from sumika.models.usage.report import Span
from sumika.serving.admin.asking import Asker, Limit, page

Day = Annotated[str, Query(max_length=40)]


def router(store: Store) -> APIRouter:
    routes = APIRouter()

    @routes.get("/usage")
    def usage(
        who: Asker, by: Annotated[str, Query(max_length=100)] = "team,alias,day", since: Day = "", until: Day = "",
        limit: Limit = 200, after: Annotated[str, Query(max_length=9, pattern="^[0-9]*$")] = "",
    ) -> dict[str, Any]:  # fmt: skip
        """An administrator's is all; an engineer's the one of their own team. `after` counts rows."""
        names, begin = [name.strip() for name in by.split(",") if name.strip()], int(after or 0)
        span, team = Span(moment(since, "since"), moment(until, "until")), None if who.role == "admin" else who.team or ""
        with store.read() as connection:
            rows = report.sums(connection, names, span, team=team)
            called = {key.id: key.name for key in keys.list_all(connection)} if "key" in names else {}
        found = [row | ({"key_name": called.get(row["key"])} if "key" in names else {}) for row in rows]
        numbered = list(enumerate(found, start=1))[begin : begin + limit + 1]
        now = datetime.now().astimezone()
        return page(numbered, limit, lambda row: row[0], lambda row: row[1]) | {"by": names, "time_zone": now.strftime("%Z %z")}

    @routes.get("/activity")
    def recent() -> dict[str, Any]:
        with store.read() as connection:
            slots, now = activity.recent(connection), activity.lately(connection)
        return {"slot_s": int(activity.SLOT.total_seconds()), "now": now, "data": slots}

    return routes


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
