"""`/admin/v1/status` and `/admin/v1/me`: what is served by which engines, and who is asking."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from sqlalchemy import Connection

from sumika import __version__
from sumika.models import aliases, engines, moves, registry
from sumika.models.engines import EngineRow, GatewayRow
from sumika.models.principals import Principal
from sumika.models.store import Store, revision
from sumika.serving.admin.aliases import described
from sumika.serving.admin.asking import Asker
from sumika.serving.memory import Meter


def router(store: Store, gauge: Meter) -> APIRouter:
    routes = APIRouter()

    @routes.get("/me")
    def me(who: Asker) -> dict[str, Any]:
        scopes = {
            "aliases": None if who.scopes.aliases is None else sorted(who.scopes.aliases),
            "endpoints": None if who.scopes.endpoints is None else sorted(who.scopes.endpoints),
            "sensitivity": who.scopes.sensitivity,
        }
        return {"id": who.id, "name": who.name, "role": who.role, "team": who.team, "owner": who.owner, **scopes}

    @routes.get("/status")
    def status(who: Asker) -> dict[str, Any]:
        with store.read() as connection:
            reached, lives = aliases.seen_by(connection, who), aliases.lives(connection)
            under_way = [move.shown(who) for move in moves.list_open(connection) if aliases.sees_move(who, move, lives)]
            return {
                "sumika": __version__,
                "revision": revision(connection),
                "aliases": list(described(connection, reached).values()),
                "moves": under_way,
                "engines": _engines(connection, who, engines.list_all(connection)),
                "gateways": [_gateway(row) for row in engines.list_gateways(connection)],
                "memory": [asdict(pool) for pool in gauge.pools()],
            }

    return routes


def _engines(connection: Connection, who: Principal, rows: list[EngineRow]) -> list[dict[str, Any]]:
    """Without the sockets, which are nobody's to know; of bases and adapters those that are `who`'s to see."""
    whole = who.role == "admin"
    seen = set() if whole else {str(version.ref) for version in registry.list_all(connection) if who.may_see(version.owner)}
    bases = registry.by_ids(connection, {row.base_id for row in rows})
    rows = [row for row in rows if who.may_see(bases[row.base_id].owner)]
    hidden = ("socket", "base_id", "pid_started")

    def shown(row: EngineRow) -> dict[str, Any]:
        error = row.error if whole or row.error is None else engines.without_log(row.error)
        facts = {name: value for name, value in asdict(row).items() if name not in hidden}
        held = [name for name in row.adapters if whole or name in seen]
        return facts | {"base": str(bases[row.base_id].ref), "adapters": held, "error": error}

    return [shown(row) for row in rows]


def _gateway(row: GatewayRow) -> dict[str, Any]:
    running = sum(count for versions in row.running.values() for count in versions.values())
    return {
        "id": row.id,
        "seen_revision": row.seen_revision,
        "running": running,
        "waiting": sum(row.waiting.values()),
        "beat_at": row.beat_at,
    }
