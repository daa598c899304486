"""`/console/teams`, and `/console/limits/…`, which keys, teams and aliases share."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from sumika.models.errors import SumikaError
from sumika.models.limits import NAMES
from sumika.serving.console.api import Api
from sumika.serving.console.asking import ROWS, Asker
from sumika.serving.console.pages import Pages, form, one

_PAGES = {"key": "/console/keys/{name}", "team": "/console/teams", "alias": "/console/deployments/{name}"}


def router(pages: Pages, api: Api) -> APIRouter:
    routes = APIRouter()

    @routes.get("/teams")
    async def list_teams(request: Request, who: Asker, after: str = "", limit: int = ROWS) -> Response:
        found = await api.get(who, "teams", after=after, limit=limit)
        limits = {row["name"]: row for row in await api.every(who, "limits") if row["kind"] == "team"}
        return pages.show(request, "teams.html", teams=found["data"], next=found["next"], limits=limits)

    @routes.post("/teams")
    async def create(request: Request, who: Asker) -> Response:
        given = await form(request)
        await api.post(who, "teams", name=one(given, "name"), title=one(given, "title"))
        return pages.goes_to(request, "/console/teams")

    @routes.post("/teams/{name}/remove")
    async def remove(request: Request, who: Asker, name: str) -> Response:
        await api.delete(who, "teams", name)
        return pages.goes_to(request, "/console/teams")

    @routes.post("/limits/{kind}/{name}")
    async def limit(request: Request, who: Asker, kind: str, name: str) -> Response:
        given = await form(request)
        wish = {field: _value(field, one(given, field)) for field in NAMES}
        await api.post(who, "limits", kind, name, **wish)
        return pages.goes_to(request, _PAGES[kind].format(name=name))

    return routes


def _value(field: str, given: str) -> object:
    """A number as people write it, 1,000 too; None where it was left empty.

    Raises:
        SumikaError: `bad_limit`.
    """
    if not given or field == "priority":
        return given or None
    plain = given.replace(",", "").replace("_", "")
    if not (plain.isdigit() and len(plain) <= 16):
        raise SumikaError(
            "bad_limit",
            "A limit is a whole number from 1; leave it empty for none.",
            "上限は1以上の整数で入力してください。上限なしの場合は空欄にします。",
            param=field,
        )
    return int(plain)
