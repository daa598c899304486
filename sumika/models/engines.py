"""Observed state: the engine processes the supervisor keeps, and what each gateway worker has seen and runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from sqlalchemy import Connection, delete, insert, select, update

from sumika.models import clock, schema

# `draining`: takes no new requests and ends those it has. `asleep`: its GPU memory is given away; `waking`: taken back.
State = Literal["starting", "ready", "draining", "asleep", "waking", "failed", "stopping"]
STATES: tuple[State, ...] = get_args(State)

# Where its log is found.
_LOG = re.compile(r"( Last lines of |ログ ).*$")
_e = schema.engines
_g = schema.gateways


@dataclass(frozen=True, slots=True)
class EngineRow:
    """One engine process. `adapters` are the version names vLLM has loaded and that are proven; `error` says why it is
    not ready; `gpu` is None on a machine without; `memory` in bytes, planned while it starts and measured afterwards."""

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
    gpu: int | None = None
    memory: int | None = None


def without_log(text: str) -> str:
    """Why an engine failed, in one line: what its log says, which may speak of any team's models, begins on the next one."""
    return _LOG.sub("", text.partition("\n")[0])


def list_all(connection: Connection) -> list[EngineRow]:
    rows = connection.execute(select(_e).order_by(_e.c.id)).mappings()
    return [EngineRow(**{**row, "adapters": tuple(row["adapters"])}) for row in rows]


def add(connection: Connection, engine_id: str, base_id: int, socket: str) -> EngineRow:
    connection.execute(
        insert(_e).values(
            id=engine_id, base_id=base_id, socket=socket, state="starting", adapters=[], restarts=0, changed_at=clock.now()
        )
    )
    return EngineRow(engine_id, base_id, socket, "starting", None, None, (), 0, None, "")


def change(connection: Connection, engine_id: str, **values: Any) -> None:
    """Set columns of one engine: state, pid, pid_started, adapters, restarts, error, gpu, memory."""
    connection.execute(update(_e).where(_e.c.id == engine_id).values(changed_at=clock.now(), **values))


def forget(connection: Connection, engine_id: str) -> None:
    connection.execute(delete(_e).where(_e.c.id == engine_id))


@dataclass(frozen=True, slots=True)
class GatewayRow:
    """One gateway worker: the revision its routes come from, its running requests (engine id → version → count), and
    those that wait for an engine of a base (base id → count)."""

    id: str
    pid: int
    seen_revision: int
    running: dict[str, dict[str, int]]
    beat_at: str
    waiting: dict[int, int] = field(default_factory=dict)


def list_gateways(connection: Connection) -> list[GatewayRow]:
    return [
        # JSON has text keys only.
        GatewayRow(r.id, r.pid, r.seen_revision, r.running, r.beat_at, {int(base): n for base, n in r.waiting.items()})
        for r in connection.execute(select(_g))
    ]


def beat(connection: Connection, row: GatewayRow) -> None:
    """Insert or replace one worker's row."""
    values = {name: value for name, value in asdict(row).items() if name != "id"}
    if connection.execute(update(_g).where(_g.c.id == row.id).values(**values)).rowcount == 0:
        connection.execute(insert(_g).values(id=row.id, **values))


def forget_gateways(connection: Connection, ids: Sequence[str]) -> None:
    connection.execute(delete(_g).where(_g.c.id.in_(ids)))
