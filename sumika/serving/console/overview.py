"""`/console`: where each begins; `/console/overview`: engines, deployments and the last day, live."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from sumika.models.principals import Principal
from sumika.serving.console.api import Api
from sumika.serving.console.asking import Asker
from sumika.serving.console.pages import HEADERS, Pages


def router(pages: Pages, api: Api) -> APIRouter:
    routes = APIRouter()

    async def seen(who: Principal) -> dict[str, Any]:
        status, activity = await api.get(who, "status"), await api.get(who, "activity")
        slots = activity["data"]
        day = {name: sum(slot[name] for slot in slots) for name in ("requests", "failed", "prompt_tokens", "completion_tokens")}
        answered = [slot for slot in slots if slot["first_ms"] is not None]
        weight = sum(slot["requests"] for slot in answered)
        first_ms = sum(slot["first_ms"] * slot["requests"] for slot in answered) / weight if weight else None
        return {"status": status, "now": activity["now"], "day": day | {"first_ms": first_ms}}

    @routes.get("")
    async def begin(who: Asker) -> Response:
        return RedirectResponse(f"/console/{'playground' if who.role == 'app' else 'overview'}", status_code=303, headers=HEADERS)

    @routes.get("/overview")
    async def overview(request: Request, who: Asker) -> Response:
        return pages.show(request, "overview.html", **await seen(who))

    @routes.get("/overview/live")
    async def live(request: Request, who: Asker) -> Response:
        return pages.show(request, "overview_live.html", **await seen(who))

    return routes
