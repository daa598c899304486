"""`/console/keys`: make a key and see it once; limits, rotation, revocation, usage."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from sumika.models import clock
from sumika.models.errors import SumikaError
from sumika.models.principals import ENDPOINTS, ROLES, SENSITIVITIES
from sumika.serving.console.api import Api
from sumika.serving.console.asking import ROWS, Asker
from sumika.serving.console.pages import Pages, form, one

_OVERLAPS_H = (0, 1, 24, 168)


def router(pages: Pages, api: Api) -> APIRouter:
    routes = APIRouter(prefix="/keys")

    async def used(who: Asker) -> dict[str, dict[str, Any]]:
        """This month's sums by key."""
        since = datetime.now().astimezone().strftime("%Y-%m-01")
        return {row["key"]: row for row in (await api.get(who, "usage", by="key", since=since))["data"]}

    @routes.get("")
    async def list_keys(request: Request, who: Asker, after: str = "", team: str = "", limit: int = ROWS) -> Response:
        found = await api.get(who, "keys", after=after, team=team, limit=limit)
        teams, aliases = await api.every(who, "teams"), await api.every(who, "aliases")
        return pages.show(
            request, "keys.html", keys=found["data"], next=found["next"], team=team, teams=teams, titles={one["name"]: one["title"] for one in teams}, aliases=aliases,
            used=await used(who), roles=ROLES, endpoints=ENDPOINTS, sensitivities=SENSITIVITIES, now=clock.now(),
        )  # fmt: skip

    @routes.post("")
    async def create(request: Request, who: Asker) -> Response:
        given = await form(request)
        wish = {name: one(given, name) for name in ("name", "role", "team", "sensitivity") if one(given, name)}
        scopes = {name: given[name] for name in ("aliases", "endpoints") if name in given}
        made = await api.post(who, "keys", **wish, **scopes, **_expiry(one(given, "expires_at")))
        return pages.show(request, "key_made.html", made=made)

    @routes.get("/{key_id}")
    async def show(request: Request, who: Asker, key_id: str) -> Response:
        key = await api.get(who, "keys", key_id)
        limits = await api.every(who, "limits")
        held = next((row for row in limits if (row["kind"], row["name"]) == ("key", key_id)), None)
        return pages.show(
            request, "key.html", key=key, limits=held, used=(await used(who)).get(key_id), overlaps=_OVERLAPS_H, now=clock.now()
        )

    @routes.post("/{key_id}/{act}")
    async def act(request: Request, who: Asker, key_id: str, act: str) -> Response:
        given = await form(request)
        if act == "rotate":
            hours = one(given, "overlap_s") or "86400"
            made = await api.post(who, "keys", key_id, "rotate", overlap_s=int(hours) if hours.isdigit() else -1)
            return pages.show(request, "key_made.html", made=made)
        await api.post(who, "keys", key_id, act)
        return pages.goes_to(request, f"/console/keys/{key_id}")

    return routes


def _expiry(day: str) -> dict[str, str]:
    """A key is good through its last day, in this machine's time zone.

    Raises:
        SumikaError: `bad_expiry`.
    """
    if not day:
        return {}
    try:
        after = datetime.fromisoformat(day) + timedelta(days=1)
        return {"expires_at": after.astimezone().isoformat()}
    except (ValueError, OverflowError):
        raise SumikaError("bad_expiry", "The expiry is no date.", "有効期限が日付ではありません。", param="expires_at") from None
