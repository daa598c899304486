"""`/console/playground`: a question to one model or two; the page's own script asks the API that apps ask."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from sumika.serving.console.api import Api
from sumika.serving.console.pages import Pages


def router(pages: Pages, api: Api) -> APIRouter:  # noqa: ARG001 - all pages of one kind
    routes = APIRouter()

    @routes.get("/playground")
    async def playground(request: Request) -> Response:
        return pages.show(request, "playground.html")

    return routes
