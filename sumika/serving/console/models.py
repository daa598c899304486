"""`/console/models`: the registry as a tree, a card for each version, and two of them side by side."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from sumika.models.names import VersionRef
from sumika.models.runfiles import dotted
from sumika.serving.console.api import Api
from sumika.serving.console.asking import Asker
from sumika.serving.console.pages import Pages, form, one

_ROWS = 200
# What a comparison tells, what matters most first.
_FIRST = ("gate",)
_GROUPS = ("evaluation", "training", "licence", "serve")
_LAST = ("kind", "base", "bytes", "created_at", "digest")


def router(pages: Pages, api: Api) -> APIRouter:
    routes = APIRouter(prefix="/models")

    @routes.get("")
    async def tree(request: Request, who: Asker, after: str = "", limit: int = _ROWS) -> Response:
        found, imports = await api.get(who, "versions", after=after, limit=limit), await api.get(who, "imports")
        return pages.show(
            request, "models.html", bases=_tree(found["data"]), versions=found["data"], next=found["next"],
            imports=imports["data"], sources=imports["sources"],
        )  # fmt: skip

    @routes.post("")
    async def bring_in(request: Request, who: Asker) -> Response:
        given = await form(request)
        wish = {"source": one(given, "source"), "name": one(given, "name")}
        await api.post(who, "imports", **wish, **({"base": one(given, "base")} if one(given, "base") else {}))
        return pages.goes_to(request, "/console/models")

    @routes.get("/imports")
    async def imports(request: Request, who: Asker) -> Response:
        """How far imports are; the page is shown anew once the last one ended."""
        found = (await api.get(who, "imports"))["data"]
        if not any(one["state"] == "running" for one in found):
            return pages.goes_to(request, "/console/models")
        return pages.show(request, "imports.html", imports=found)

    @routes.get("/compare")
    async def compare(request: Request, who: Asker, a: str = "", b: str = "") -> Response:
        versions = await api.every(who, "versions")
        sides = [await api.get(who, "versions", VersionRef.parse(ref)) for ref in (a, b) if ref]
        rows = _differences(*sides) if len(sides) == 2 else []
        return pages.show(request, "compare_versions.html", versions=versions, a=a, b=b, sides=sides, rows=rows)

    @routes.get("/{ref}")
    async def card(request: Request, who: Asker, ref: str) -> Response:
        return pages.show(request, "version.html", version=await api.get(who, "versions", VersionRef.parse(ref)))

    return routes


def _tree(versions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Bases with the adapters on them, newest first; an adapter whose base is on another page stands under its name alone."""
    on: dict[str, list[dict[str, Any]]] = {}
    for version in reversed(versions):
        if version["kind"] == "adapter":
            on.setdefault(version["base"], []).append(version)
    bases = [{"version": one, "adapters": on.pop(one["version"], [])} for one in reversed(versions) if one["kind"] == "base"]
    return bases + [{"version": {"version": name}, "adapters": adapters} for name, adapters in on.items()]


def _differences(a: dict[str, Any], b: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Facts by dotted key where the two differ."""
    one, other = _facts(a), _facts(b)
    keys = dict.fromkeys([*one, *other])
    return [(key, one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)]


def _facts(version: dict[str, Any]) -> dict[str, Any]:
    flat = {name: version[name] for name in _FIRST}
    for group in _GROUPS:
        flat |= {f"{group}.{key}": value for key, value in dotted(version["meta"].get(group, {})) if not isinstance(value, list)}
    return flat | {name: version[name] for name in _LAST}
