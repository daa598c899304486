"""Observed state: the engine processes the supervisor keeps, and what each gateway worker has seen and runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, delete, insert, select, update

from sumika.models import clock, schema

State = Literal["starting", "ready", "failed", "stopping"]

_e = schema.engines
_g = schema.gateways


@dataclass(frozen=True, slots=True)
class EngineRow:
    """One engine process. `adapters` are the version names vLLM has loaded; `error` says why it is not ready."""

    id: str
    base_id: int
    socket: str
    state: State
    pid: int | None
    pid_started: str | None
    adapters: tuple[str, ...]
    restarts: int
    error: str | None
    changed_at: str


def list_all(connection: Connection) -> list[EngineRow]:
    return [
        EngineRow(r.id, r.base_id, r.socket, r.state, r.pid, r.pid_started, tuple(r.adapters), r.restarts, r.error, r.changed_at)
        for r in connection.execute(select(_e).order_by(_e.c.id))
    ]


def add(connection: Connection, engine_id: str, base_id: int, socket: str) -> None:
    connection.execute(
        insert(_e).values(
            id=engine_id, base_id=base_id, socket=socket, state="starting", adapters=[], restarts=0, changed_at=clock.now()
        )
    )


def change(connection: Connection, engine_id: str, **values: Any) -> None:
    """Set columns of one engine: state, pid, pid_started, adapters, restarts, error."""
    connection.execute(update(_e).where(_e.c.id == engine_id).values(changed_at=clock.now(), **values))


def forget(connection: Connection, engine_id: str) -> None:
    connection.execute(delete(_e).where(_e.c.id == engine_id))


@dataclass(frozen=True, slots=True)
class GatewayRow:
    """One gateway worker: the revision its routes come from, and its running requests by version name."""

    id: str
    pid: int
    seen_revision: int
    running: dict[str, int]
    beat_at: str


def list_gateways(connection: Connection) -> list[GatewayRow]:
    return [GatewayRow(*row) for row in connection.execute(select(_g))]


def beat(connection: Connection, row: GatewayRow) -> None:
    """Insert or replace one worker's row."""
    values = {"pid": row.pid, "seen_revision": row.seen_revision, "running": row.running, "beat_at": row.beat_at}
    if connection.execute(update(_g).where(_g.c.id == row.id).values(**values)).rowcount == 0:
        connection.execute(insert(_g).values(id=row.id, **values))


def forget_gateways(connection: Connection, ids: Sequence[str]) -> None:
    connection.execute(delete(_g).where(_g.c.id.in_(ids)))
