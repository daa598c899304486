"""`/console/costs`: rent or own."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from sumika.serving.console.api import Api
from sumika.serving.console.asking import Asker
from sumika.serving.console.pages import Pages


def router(pages: Pages, api: Api) -> APIRouter:
    routes = APIRouter()

    @routes.get("/costs")
    async def costs(request: Request, who: Asker, month: str = "", server: int = 0) -> Response:
        return pages.show(request, "costs.html", costs=await api.get(who, "costs", month=month, server=server), chosen=server)

    return routes
