"""Moves: what was asked of an alias, how far it got, how it ended. The rows that have ended are the alias's history."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, insert, select, update

from sumika.models import audit, clock, engines, schema
from sumika.models.audit import Action
from sumika.models.errors import SumikaError, not_found
from sumika.models.names import VersionRef
from sumika.models.principals import Principal

Kind = Literal["deploy", "rollback", "canary", "promote", "abort"]
State = Literal["open", "done", "refused"]
# How far an open move got. `rolling`: one engine of the old base makes room for the new one, others go on serving.
# `holding`: the old base's last engine makes room, and requests wait meanwhile. `returning`: the new base failed after
# that, and requests wait for the old one to be back; the move is refused then.
Step = Literal["asked", "rolling", "holding", "returning", "ended"]

_m = schema.moves
_from = schema.versions.alias("from_version")
_to = schema.versions.alias("to_version")


@dataclass(frozen=True, slots=True)
class Move:
    """A wish to change where `alias` leads, made when the alias was at `generation`. `share`: percent, of a canary.
    `owner`: whose the alias was when this was asked, or will be, where it is a new one."""

    id: int
    alias: str
    from_ref: VersionRef | None
    to_id: int
    to_ref: VersionRef
    kind: Kind
    share: int | None
    state: State
    step: Step
    actor: str
    reason: str
    generation: int
    canary: dict[str, Any] | None
    error: dict[str, str] | None
    asked_at: str
    ended_at: str | None
    owner: str | None = None

    def shown(self, seen_by: Principal | None = None) -> dict[str, Any]:
        """For programs: as JSON spells it, versions by name. The last lines of an engine's log are for the operator (None) and
        administrators."""
        error = self.error
        if error is not None and seen_by is not None and seen_by.role != "admin":
            error = {name: engines.without_log(text) for name, text in error.items()}
        hidden = ("from_ref", "to_ref", "to_id", "owner")
        versions = {"from": str(self.from_ref) if self.from_ref else None, "to": str(self.to_ref)}
        return {name: value for name, value in asdict(self).items() if name not in hidden} | versions | {"error": error}

    @property
    def failure(self) -> SumikaError | None:
        """Why the move was refused, or will be."""
        return SumikaError(self.error["code"], self.error["en"], self.error["ja"], status=409) if self.error else None


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
        row.to_id, VersionRef(row.to_name, row.to_number), row.kind, row.share, row.state, row.step, row.actor, row.reason,
        row.generation, row.canary, row.error, row.asked_at, row.ended_at, row.owner,
    )  # fmt: skip


def add(
    connection: Connection, alias: str, kind: Kind, *, from_id: int | None, to_id: int, generation: int,
    actor: str, reason: str, share: int | None = None, owner: str | None = None,
) -> Move:  # fmt: skip
    """Record a wish. Rules of who may wish what stand in `aliases`.

    Raises:
        SumikaError: `move_open` (409), while another move of this alias is under way.
    """
    check_none_open(connection, alias)
    wish = insert(_m).values(
        alias=alias, from_id=from_id, to_id=to_id, kind=kind, share=share, state="open", step="asked",
        actor=actor, reason=reason, generation=generation, asked_at=clock.now(), owner=owner,
    )  # fmt: skip
    move = get(connection, connection.execute(wish.returning(_m.c.id)).scalar_one())
    audit.append(
        connection, Action(f"alias.{kind}"), alias, outcome="asked", reason=reason, actor=actor,
        details=_facts(move) | ({"share": share} if share is not None else {}),
    )  # fmt: skip
    return move


def check_none_open(connection: Connection, alias: str) -> None:
    """Raises SumikaError `move_open` (409), while a move of this alias is under way."""
    running = connection.execute(_MOVES.where(_m.c.alias == alias, _m.c.state == "open")).first()
    if running is not None:
        other = _move(running)
        raise SumikaError(
            "move_open",
            f"'{alias}' is already moving to {other.to_ref} (asked by {other.actor}). Wait for it to end, or end it with 'sumika abort {alias}'.",
            f"「{alias}」は {other.to_ref} への切り替え中です(依頼者: {other.actor})。終わるのを待つか、sumika abort {alias} で中止してください。",
            status=409,
        )


def get(connection: Connection, move_id: int) -> Move:
    """Raises SumikaError `not_found`."""
    row = connection.execute(_MOVES.where(_m.c.id == move_id)).one_or_none()
    if row is None:
        raise no_such_move(str(move_id))
    return _move(row)


def no_such_move(move_id: str) -> SumikaError:
    return not_found("move", "切り替え", move_id, "See 'sumika status'.", "sumika status で確認してください。")


def list_open(connection: Connection) -> list[Move]:
    return [_move(row) for row in connection.execute(_MOVES.where(_m.c.state == "open").order_by(_m.c.id))]


def history(connection: Connection, alias: str | None = None, *, limit: int = 50, below: int | None = None) -> list[Move]:
    """The newest moves first; `below`: the last id of the page before."""
    query = _MOVES.order_by(_m.c.id.desc()).limit(limit)
    if below is not None:
        query = query.where(_m.c.id < below)
    return [_move(row) for row in connection.execute(query if alias is None else query.where(_m.c.alias == alias))]


def note_step(connection: Connection, move: Move, step: Step, error: SumikaError | None = None) -> None:
    """How far an open move got; `error` is why it is turning back."""
    values: dict[str, Any] = {"step": step} | ({"error": _told(error)} if error else {})
    connection.execute(update(_m).where(_m.c.id == move.id, _m.c.state == "open").values(**values))


def finish(connection: Connection, move: Move, canary: dict[str, Any] | None) -> None:
    """Mark an open move done; the alias is the caller's to change in the same transaction.

    Raises:
        SumikaError: `move_ended` (409), when somebody ended it meanwhile.
    """
    ended = _end(connection, move, state="done", canary=canary)
    if not ended:
        raise SumikaError(
            "move_ended",
            f"The move of '{move.alias}' to {move.to_ref} was ended meanwhile. See 'sumika status'.",
            f"「{move.alias}」の {move.to_ref} への切り替えは、その間に中止されました。sumika status で確認してください。",
            status=409,
        )
    audit.append(connection, Action(f"alias.{move.kind}"), move.alias, details=_facts(move))


def refuse(connection: Connection, move: Move, error: SumikaError) -> None:
    """End a move without touching the alias; the old version goes on serving. One that has ended stays as it is."""
    if _end(connection, move, state="refused", error=_told(error)):
        action = Action(f"alias.{move.kind}")
        audit.append(connection, action, move.alias, outcome="refused", reason=error.code, details=_facts(move))


def _end(connection: Connection, move: Move, **values: Any) -> bool:
    ended = connection.execute(
        update(_m).where(_m.c.id == move.id, _m.c.state == "open").values(step="ended", ended_at=clock.now(), **values)
    )
    return ended.rowcount == 1


def _facts(move: Move) -> dict[str, Any]:
    """What the audit log tells of a move, at its beginning and its end."""
    return {
        "move": move.id,
        "from": str(move.from_ref) if move.from_ref else None,
        "to": str(move.to_ref),
        "asked_by": move.actor,
    }


def _told(error: SumikaError) -> dict[str, str]:
    return {"code": error.code, "en": error.en, "ja": error.ja}
