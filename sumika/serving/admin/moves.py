"""`/admin/v1/moves`: what was asked of aliases, newest first, and how it ended."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path
from sqlalchemy import Connection

from sumika.models import aliases, moves, people
from sumika.models.moves import Move
from sumika.models.principals import Principal
from sumika.models.store import Store
from sumika.serving.admin.asking import After, Asker, Limit, number, page

MoveId = Annotated[int, Path(ge=1, lt=2**63)]


def router(store: Store) -> APIRouter:
    routes = APIRouter(prefix="/moves")

    @routes.get("")
    def list_moves(who: Asker, limit: Limit = 50, after: After = "", alias: str | None = None) -> dict[str, Any]:
        with store.read() as connection:
            rows = _reached(connection, who, alias, number(after), limit + 1)
            shown = people.named(connection, [move.shown(who) for move in rows])
        return page(shown, limit, lambda move: move["id"], lambda move: move)

    @routes.get("/{move_id}")
    def show(who: Asker, move_id: MoveId) -> dict[str, Any]:
        with store.read() as connection:
            return people.named(connection, [moves.get(connection, move_id).shown(who)])[0]

    return routes


def _reached(connection: Connection, who: Principal, alias: str | None, below: int | None, limit: int) -> list[Move]:
    """The first `limit` moves of aliases that `who` may see."""
    found: list[Move] = []
    lives = aliases.lives(connection)
    while len(found) < limit:
        rows = moves.history(connection, alias, limit=limit, below=below)
        found += [move for move in rows if aliases.sees_move(who, move, lives)]
        if len(rows) < limit:
            break
        below = rows[-1].id
    return found[:limit]
