"""`/console/static/…`: the console's own scripts and styles, and those of others that are kept beside them."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from sumika.serving.access import nothing_here
from sumika.serving.console.pages import STATIC

_KINDS = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}


def router() -> APIRouter:
    routes = APIRouter(prefix="/static")
    files = {path.name: (path.read_bytes(), _KINDS[path.suffix]) for path in STATIC.iterdir() if path.suffix in _KINDS}

    @routes.get("/{file}")
    def show(file: str) -> Response:
        found = files.get(file)
        if found is None:
            raise nothing_here()
        headers = {"cache-control": "public, max-age=31536000, immutable", "x-content-type-options": "nosniff"}
        return Response(found[0], media_type=found[1], headers=headers)

    return routes
