"""Aliases: the names apps call. A move asks for an alias to point elsewhere; the supervisor proves and finishes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, insert, select, update

from sumika.models import clock, registry, schema
from sumika.models.errors import SumikaError, not_found
from sumika.models.names import VersionRef, check_name
from sumika.models.registry import Version

MoveKind = Literal["deploy", "rollback"]
MoveState = Literal["open", "done", "refused"]

_a = schema.aliases
_m = schema.moves
_from = schema.versions.alias("from_version")
_to = schema.versions.alias("to_version")


@dataclass(frozen=True, slots=True)
class Alias:
    name: str
    version_id: int
    generation: int
    moved_at: str


@dataclass(frozen=True, slots=True)
class Move:
    """A wish to move `alias` from the version it had at `generation` to another, and how far that got."""

    id: int
    alias: str
    from_ref: VersionRef | None
    to_id: int
    to_ref: VersionRef
    kind: MoveKind
    state: MoveState
    step: str
    actor: str
    reason: str
    generation: int
    canary: dict[str, Any] | None
    error: dict[str, str] | None
    asked_at: str
    ended_at: str | None


_MOVES = select(
    _m,
    _from.c.name.label("from_name"),
    _from.c.number.label("from_number"),
    _to.c.name.label("to_name"),
    _to.c.number.label("to_number"),
).select_from(_m.outerjoin(_from, _m.c.from_id == _from.c.id).join(_to, _m.c.to_id == _to.c.id))


def _move(row: Row[Any]) -> Move:
    return Move(
        row.id, row.alias, VersionRef(row.from_name, row.from_number) if row.from_id is not None else None,
        row.to_id, VersionRef(row.to_name, row.to_number), row.kind, row.state, row.step, row.actor, row.reason,
        row.generation, row.canary, row.error, row.asked_at, row.ended_at,
    )  # fmt: skip


def list_all(connection: Connection) -> list[Alias]:
    return [Alias(*row) for row in connection.execute(select(_a).order_by(_a.c.name))]


def find(connection: Connection, name: str) -> Alias | None:
    row = connection.execute(select(_a).where(_a.c.name == name)).one_or_none()
    return Alias(*row) if row else None


def ask_deploy(connection: Connection, alias: str, to: Version, *, actor: str, reason: str, override: bool = False) -> Move:
    """Record the wish that `alias` serve `to`.

    Raises:
        SumikaError: `bad_name`; `gate_refused`, for a version that failed its evaluation, unless `override` with a
            `reason`; `move_open` (409), while another move of this alias is under way.
    """
    check_name(alias)
    if to.gate == "refused" and not (override and reason):
        raise SumikaError(
            "gate_refused",
            f"{to.ref} failed its evaluation and may not serve. See 'sumika models show {to.ref}'; "
            "to serve it all the same, add --override --reason '…' (kept in the history).",
            f"{to.ref} は評価に合格していないため配備できません(詳細: sumika models show {to.ref})。"
            "それでも配備する場合は --override --reason '…' を付けてください(履歴に残ります)。",
            status=409,
        )
    return _ask(connection, alias, to, "deploy", actor, reason)


def ask_rollback(connection: Connection, alias: str, *, actor: str, reason: str) -> Move:
    """Record the wish that `alias` serve again what it served before its last finished move.

    Raises:
        SumikaError: `not_found` (also for a version that was removed) or `nothing_before`; `move_open` as in `ask_deploy`.
    """
    now = find(connection, alias)
    if now is None:
        raise _no_alias(alias)
    last = before(connection, now)
    if last is None:
        raise SumikaError(
            "nothing_before",
            f"'{alias}' has no version before the one it serves; deploy the one you want with 'sumika deploy'.",
            f"「{alias}」には戻せる前の版がありません。sumika deploy で版を指定してください。",
            status=409,
        )
    target = registry.get(connection, registry.by_id(connection, last).ref)
    return _ask(connection, alias, target, "rollback", actor, reason)


def before(connection: Connection, alias: Alias) -> int | None:
    """The id of the version that a rollback would lead back to."""
    return connection.scalar(
        select(_m.c.from_id)
        .where(_m.c.alias == alias.name, _m.c.state == "done", _m.c.to_id == alias.version_id, _m.c.from_id.is_not(None))
        .where(_m.c.kind == "deploy", _m.c.from_id != alias.version_id)
        .order_by(_m.c.id.desc())
        .limit(1)
    )


def _ask(connection: Connection, alias: str, to: Version, kind: MoveKind, actor: str, reason: str) -> Move:
    running = connection.execute(_MOVES.where(_m.c.alias == alias, _m.c.state == "open")).first()
    if running is not None:
        other = _move(running)
        raise SumikaError(
            "move_open",
            f"'{alias}' is already moving to {other.to_ref} (asked by {other.actor}). Wait for it to end, then ask again.",
            f"「{alias}」は {other.to_ref} への切り替え中です(依頼者: {other.actor})。終わってからやり直してください。",
            status=409,
        )
    now = find(connection, alias)
    wish = insert(_m).values(
        alias=alias,
        from_id=now.version_id if now else None,
        to_id=to.id,
        kind=kind,
        state="open",
        step="asked",
        actor=actor,
        reason=reason,
        generation=now.generation if now else 0,
        asked_at=clock.now(),
    )
    return get_move(connection, connection.execute(wish.returning(_m.c.id)).scalar_one())


def get_move(connection: Connection, move_id: int) -> Move:
    row = connection.execute(_MOVES.where(_m.c.id == move_id)).one_or_none()
    if row is None:
        raise not_found("move", "切り替え", str(move_id), "See 'sumika status'.", "sumika status で確認してください。")
    return _move(row)


def open_moves(connection: Connection) -> list[Move]:
    return [_move(row) for row in connection.execute(_MOVES.where(_m.c.state == "open").order_by(_m.c.id))]


def history(connection: Connection, alias: str | None = None, *, limit: int = 50) -> list[Move]:
    """The newest moves first."""
    query = _MOVES.order_by(_m.c.id.desc()).limit(limit)
    return [_move(row) for row in connection.execute(query if alias is None else query.where(_m.c.alias == alias))]


def note_step(connection: Connection, move: Move, step: str) -> None:
    connection.execute(update(_m).where(_m.c.id == move.id, _m.c.state == "open").values(step=step))


def finish(connection: Connection, move: Move, canary: dict[str, Any] | None) -> None:
    """Point the alias at the move's version, in the caller's transaction, if nobody moved it meanwhile.

    Raises:
        SumikaError: `moved_meanwhile` (409), when the alias is at another generation than when the move was asked.
    """
    if move.generation == 0:
        if find(connection, move.alias) is not None:
            raise _moved_meanwhile(connection, move)
        connection.execute(insert(_a).values(name=move.alias, version_id=move.to_id, generation=1, moved_at=clock.now()))
    else:
        moved = connection.execute(
            update(_a)
            .where(_a.c.name == move.alias, _a.c.generation == move.generation)
            .values(version_id=move.to_id, generation=move.generation + 1, moved_at=clock.now())
        )
        if moved.rowcount != 1:
            raise _moved_meanwhile(connection, move)
    _end(connection, move, state="done", canary=canary)


def refuse(connection: Connection, move: Move, error: SumikaError, canary: dict[str, Any] | None = None) -> None:
    """End a move without touching the alias; the old version goes on serving."""
    _end(connection, move, state="refused", canary=canary, error={"code": error.code, "en": error.en, "ja": error.ja})


def _end(connection: Connection, move: Move, **values: Any) -> None:
    connection.execute(
        update(_m).where(_m.c.id == move.id, _m.c.state == "open").values(step="ended", ended_at=clock.now(), **values)
    )


def _moved_meanwhile(connection: Connection, move: Move) -> SumikaError:
    last = next((m for m in history(connection, move.alias) if m.state == "done"), None)
    by = f" by {last.actor}, to {last.to_ref}" if last else ""
    return SumikaError(
        "moved_meanwhile",
        f"'{move.alias}' was moved meanwhile{by}. Look at 'sumika status' and ask again if you still want {move.to_ref}.",
        f"「{move.alias}」はその間に切り替えられました{f'({last.actor} が {last.to_ref} へ)' if last else ''}。"
        f"sumika status を確認し、必要ならやり直してください。",
        status=409,
    )


def _no_alias(alias: str) -> SumikaError:
    return not_found("alias", "エイリアス", alias, "'sumika status' shows what is served.", "sumika status で確認してください。")
