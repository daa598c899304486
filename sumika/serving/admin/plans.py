"""`/admin/v1/aliases/{alias}/plan`: what leading an alias to a version would do, asked before anything is done."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from sumika.models import aliases, canary, engines, moves, registry
from sumika.models.home import Home
from sumika.models.names import VersionRef, check_name
from sumika.models.registry import Version
from sumika.models.settings import Settings
from sumika.models.store import Store
from sumika.serving.admin.asking import Asker
from sumika.serving.memory import Meter
from sumika.serving.room import Place, Room


def router(store: Store, settings: Settings, gauge: Meter) -> APIRouter:
    routes = APIRouter()

    @routes.get("/aliases/{alias}/plan")
    def plan(who: Asker, alias: str, version: Annotated[str, Query(max_length=80)]) -> dict[str, Any]:
        """`way`: `same` (nothing changes), `load` (into an engine that runs), `beside` (a new engine while the old one serves),
        `instead` (the old engine makes room, requests wait meanwhile), `no_room` (it would be refused)."""
        check_name(alias)
        with store.read() as connection:
            to, now = registry.seen(connection, who, VersionRef.parse(version)), aliases.find(connection, alias)
            every, rows = aliases.list_all(connection), engines.list_all(connection)
            known = registry.by_ids(connection, {a.version_id for a in every} | {to.engine_base_id})
            current = known.get(now.version_id) if now else None
            users = [a for a in every if current and known[a.version_id].engine_base_id == current.engine_base_id]
            open_move = next((move.shown(who) for move in moves.list_open(connection) if move.alias == alias), None)
        base, others = known[to.engine_base_id], [a for a in users if a.name != alias]
        running = [row for row in rows if row.base_id == base.id and row.state in ("ready", "asleep", "waking", "draining")]
        facts = {
            "alias": alias, "from": str(current.ref) if current else None, "to": str(to.ref), "kind": to.kind, "gate": to.gate,
            "base": str(base.ref), "reference": canary.origin(to, settings.layout.artifacts / to.folder),
            "engines": len(running), "canary": now is not None and now.canary_id is not None, "open_move": open_move,
            "others": [a.name for a in others if who.may_use(a.name) and who.may_see(a.owner)],
        }  # fmt: skip
        if current is not None and current.id == to.id:
            return facts | {"way": "same"}
        if running:
            return facts | {"way": "load"}
        leaving = [row.id for row in rows if current and row.base_id == current.engine_base_id]
        return facts | _room(Room(settings.engine, gauge), settings.layout, rows, base, [] if others else leaving)

    return routes


def _room(room: Room, home: Home, rows: list[engines.EngineRow], base: Version, leaving: list[str]) -> dict[str, Any]:
    """Whether an engine for `base` has room beside those that run, or once `leaving` are gone."""
    for row in rows:
        room.adopt(row.id, row.gpu, row.memory)
    folder = home.artifacts / base.folder
    beside = room.find(base, folder)
    if isinstance(beside, Place):
        return {"way": "beside", "memory": _told(beside)}
    instead = room.find(base, folder, leaving) if leaving else beside
    if isinstance(instead, Place):
        return {"way": "instead", "memory": _told(instead)}
    return {"way": "no_room", "refusal": {"code": instead.code, "en": instead.en, "ja": instead.ja}}


def _told(place: Place) -> dict[str, Any]:
    return {"planned": place.planned, "pool": place.pool.name, "total": place.pool.total, "free": place.free}
