"""`/console/usage`: requests and tokens by team, alias, day or what is chosen."""

from __future__ import annotations

from datetime import datetime, timedelta

from fastapi import APIRouter, Request
from starlette.responses import Response

from sumika.models.usage import report
from sumika.serving.console.api import Api
from sumika.serving.console.asking import Asker
from sumika.serving.console.pages import Pages

_ROWS = 50
_USUAL = "team,alias"


def router(pages: Pages, api: Api) -> APIRouter:
    routes = APIRouter()

    @routes.get("/usage")
    async def usage(
        request: Request, who: Asker, by: str = _USUAL, since: str = "", until: str = "", after: str = ""
    ) -> Response:
        """The last thirty days where nothing is said; `until` is the last day that counts."""
        today = datetime.now().astimezone().date()
        since = since or (today - timedelta(days=29)).isoformat()
        span = {"since": since, "until": _next_day(until)}
        found = await api.get(who, "usage", by=by, after=after, limit=_ROWS, **span)
        days = await api.get(who, "usage", by="day", **span)
        titles = {one["name"]: one["title"] for one in await api.every(who, "teams")}
        total = {
            name: sum(row[name] for row in days["data"]) for name in ("requests", "failed", "prompt_tokens", "completion_tokens")
        }
        return pages.show(
            request, "usage.html", usage=found, days=days["data"], titles=titles, total=total, by=by, since=since, until=until, span=span,
            choices=[_USUAL, "team,alias,day", "team", "alias", "day", "key", "version", "endpoint,status"], columns=[*report.COLUMNS, report.DAY],
        )  # fmt: skip

    return routes


def _next_day(day: str) -> str:
    try:
        return (datetime.fromisoformat(day) + timedelta(days=1)).date().isoformat()
    except (ValueError, OverflowError):
        return day  # the API says what is wrong with it
