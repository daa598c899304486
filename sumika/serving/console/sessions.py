"""`/console/sessions`: who is signed in, and signing them out."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from sumika.models import sessions
from sumika.serving.browser_sessions import secret_of
from sumika.serving.console.api import Api
from sumika.serving.console.asking import ROWS, Asker
from sumika.serving.console.pages import Pages
from sumika.serving.gate import session_of


def router(pages: Pages, api: Api) -> APIRouter:
    routes = APIRouter(prefix="/sessions")

    @routes.get("")
    async def list_sessions(request: Request, who: Asker, after: str = "", limit: int = ROWS) -> Response:
        found = await api.get(who, "sessions", after=after, limit=limit)
        held = session_of(request.scope)
        return pages.show(
            request,
            "sessions.html",
            sessions=found["data"],
            next=found["next"],
            own=sessions.named(secret_of(held)) if held else "",
        )

    @routes.post("/{session_id}/end")
    async def end(request: Request, who: Asker, session_id: str) -> Response:
        await api.delete(who, "sessions", session_id)
        return pages.goes_to(request, "/console/sessions")

    return routes
