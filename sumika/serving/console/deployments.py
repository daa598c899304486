"""`/console/deployments` and `/console/swap`: what each alias leads to, and leading it elsewhere in four steps."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from sumika.models.errors import SumikaError
from sumika.serving.console.api import Api
from sumika.serving.console.asking import ROWS, Asker
from sumika.serving.console.pages import Pages, form, one

_MOST_SHARE = 99


def router(pages: Pages, api: Api) -> APIRouter:
    routes = APIRouter()
    _add_removing(routes, pages, api)

    def followed(request: Request, alias: str, move: dict[str, Any]) -> Response:
        return pages.goes_to(request, f"/console/deployments/{alias}/moves/{move['id']}")

    @routes.get("/deployments")
    async def deployments(request: Request, who: Asker, after: str = "", before: str = "") -> Response:
        """`after` is a place in the aliases, `before` one in the moves."""
        found = await api.get(who, "aliases", after=after, limit=ROWS)
        moves = await api.get(who, "moves", after=before, limit=ROWS)
        return pages.show(request, "deployments.html", aliases=found["data"], next=found["next"], moves=moves)

    @routes.get("/deployments/{alias}")
    async def alias(request: Request, who: Asker, alias: str, after: str = "") -> Response:
        found = await api.get(who, "aliases", alias)
        moves = await api.get(who, "moves", alias=alias, after=after, limit=ROWS)
        under_way = next((move for move in found["moves"] if move["state"] == "open"), None)
        limits = await api.every(who, "limits")
        held = next((row for row in limits if (row["kind"], row["name"]) == ("alias", alias)), None)
        return pages.show(request, "alias.html", alias=found, moves=moves, under_way=under_way, limits=held)

    @routes.get("/deployments/{alias}/moves/{move_id}")
    async def move(request: Request, who: Asker, alias: str, move_id: int) -> Response:
        found = await api.get(who, "moves", move_id)
        now = await _now(api, who, alias)
        part = "move_live.html" if request.headers.get("hx-request") else "move.html"
        return pages.show(request, part, move=found, alias=now, version=await api.get(who, "versions", found["to"]))

    @routes.post("/deployments/{alias}/{act}")
    async def act(request: Request, who: Asker, alias: str, act: str) -> Response:
        given = await form(request)
        over = {"override": True} if one(given, "override") else {}
        return followed(request, alias, await api.post(who, "aliases", alias, act, reason=one(given, "reason"), **over))

    @routes.get("/swap")
    async def pick(request: Request, who: Asker, alias: str = "", version: str = "") -> Response:
        versions, known = await api.every(who, "versions"), await api.every(who, "aliases")
        return pages.show(request, "swap.html", versions=versions, aliases=known, alias=alias, version=version)

    @routes.get("/swap/plan")
    async def plan(request: Request, who: Asker, alias: str = "", version: str = "") -> Response:
        told = await api.get(who, "aliases", alias.strip() or "-", "plan", version=version.strip() or "-")
        return pages.show(request, "swap_plan.html", plan=told)

    @routes.post("/swap")
    async def swap(request: Request, who: Asker) -> Response:
        given = await form(request)
        alias, wish = one(given, "alias"), {"version": one(given, "version"), "reason": one(given, "reason")}
        over = {"override": True} if one(given, "override") else {}
        if one(given, "how") == "canary":
            asked = await api.post(who, "aliases", alias, "canary", share=_share(one(given, "share")), **wish, **over)
        else:
            asked = await api.post(who, "aliases", alias, "deploy", **wish, **over)
        return followed(request, alias, asked)

    return routes


def _add_removing(routes: APIRouter, pages: Pages, api: Api) -> None:
    @routes.post("/deployments/{alias}/remove")
    async def remove(request: Request, who: Asker, alias: str) -> Response:
        given = await form(request)
        await api.delete(who, "aliases", alias, reason=one(given, "reason"))
        return pages.goes_to(request, "/console/deployments")


async def _now(api: Api, who: Asker, alias: str) -> dict[str, Any] | None:
    """What the alias leads to; None before its first move is done."""
    try:
        found: dict[str, Any] = await api.get(who, "aliases", alias)
    except SumikaError as error:
        if error.code != "not_found":
            raise
        return None
    return found


def _share(given: str) -> int:
    """Raises SumikaError `bad_share`."""
    if given.isascii() and given.isdigit() and 1 <= int(given) <= _MOST_SHARE:
        return int(given)
    raise SumikaError(
        "bad_share", "A canary's share is 1 to 99 percent.", "カナリアの割合は 1〜99 % で指定してください。", param="share"
    )
