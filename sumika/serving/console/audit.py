"""`/console/audit`: search the log, verify its chain, take it away."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from sumika.models.audit import Action
from sumika.serving.console.api import Api
from sumika.serving.console.asking import ROWS, Asker
from sumika.serving.console.pages import Pages

_FIELDS = ("actor", "action", "object", "since", "until")


def router(pages: Pages, api: Api) -> APIRouter:
    routes = APIRouter(prefix="/audit")

    @routes.get("")
    async def search(request: Request, who: Asker, after: str = "", limit: int = ROWS) -> Response:
        asked = {name: request.query_params.get(name, "").strip() for name in _FIELDS}
        found = await api.get(who, "audit", after=after, limit=limit, **asked)
        nouns = sorted({action.value.partition(".")[0] for action in Action})
        return pages.show(request, "audit.html", rows=found["data"], next=found["next"], asked=asked, nouns=nouns)

    @routes.get("/verify")
    async def verify(request: Request, who: Asker) -> Response:
        return pages.show(request, "audit_verified.html", found=await api.get(who, "audit", "verify"))

    return routes
