"""Aliases: the names apps call, and the rules for moving one. The supervisor proves a move and then finishes it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, func, insert, select, update

from sumika.models import audit, clock, limits, moves, registry, schema
from sumika.models.audit import Action
from sumika.models.errors import SumikaError, not_found
from sumika.models.moves import Kind, Move
from sumika.models.names import check_name
from sumika.models.principals import OPERATOR, Principal
from sumika.models.registry import Version

_a = schema.aliases
_m = schema.moves


@dataclass(frozen=True, slots=True)
class Alias:
    """Where a name leads: to `version_id`, and for `canary_share` percent of the keys to `canary_id`.
    `generation` grows with every change. `owner` (`Principal.owner`) and administrators move it; None: administrators alone."""

    name: str
    version_id: int
    generation: int
    moved_at: str
    canary_id: int | None = None
    canary_share: int | None = None
    owner: str | None = None


def has_canary(alias: str, key_id: str, share: int) -> bool:
    """Whether a key is among the `share` percent that get the canary of `alias`: the same answer each time, and a key
    that is among 10 % is among 20 % too."""
    return int.from_bytes(hashlib.sha256(f"{alias}\0{key_id}".encode()).digest()[:8]) % 100 < share


def list_all(connection: Connection) -> list[Alias]:
    return [Alias(*row) for row in connection.execute(select(_a).order_by(_a.c.name))]


def find(connection: Connection, name: str) -> Alias | None:
    row = connection.execute(select(_a).where(_a.c.name == name)).one_or_none()
    return Alias(*row) if row else None


def get(connection: Connection, name: str) -> Alias:
    """Raises SumikaError `not_found`."""
    alias = find(connection, name)
    if alias is None:
        raise no_such_alias(name)
    return alias


def no_such_alias(name: str) -> SumikaError:
    return not_found("alias", "エイリアス", name, "'sumika status' shows what is served.", "sumika status で確認してください。")


def seen_by(connection: Connection, who: Principal) -> list[Alias]:
    """Those within the scope of `who` that are their team's or everybody's."""
    return [alias for alias in list_all(connection) if who.may_use(alias.name) and who.may_see(alias.owner)]


class Lives(NamedTuple):
    """Of aliases by their names, as they are now: whose each is, and the id of the move that made it."""

    owners: Mapping[str, str | None]
    since: Mapping[str, int]


def lives(connection: Connection) -> Lives:
    made = (
        select(_m.c.alias, func.max(_m.c.id).label("id")).where(_m.c.state == "done", _m.c.generation == 0).group_by(_m.c.alias)
    )
    return Lives(
        {row.name: row.owner for row in connection.execute(select(_a.c.name, _a.c.owner))},
        {row.alias: row.id for row in connection.execute(made)},
    )


def sees_move(who: Principal, move: Move, now: Lives) -> bool:
    """Whether `move` is of an alias that `who` may see. One of an alias that was removed, or never came to be, is whose the alias
    was then: its name may be another team's by now."""
    if not who.may_use(move.alias):
        return False
    if move.alias in now.owners and move.id >= now.since.get(move.alias, 0):
        return who.may_see(now.owners[move.alias])
    return who.may_change(move.owner) or (move.owner is None and move.generation == 0)


def check_seen(connection: Connection, who: Principal, name: str) -> None:
    """An alias that does not exist yet is whose the open move to it is; without one it is free.

    Raises:
        SumikaError: `not_found`, for one that is not `who`'s to see.
    """
    if not who.may_use(name) or not who.may_see(_owner(connection, name)[1]):
        raise no_such_alias(name)


def check_moved_by(connection: Connection, who: Principal, name: str) -> None:
    """A name that another team's versions bear is not free, though no alias has it yet.

    Raises:
        SumikaError: `not_found`, as `check_seen`; `not_owner` (403), for everybody's, which administrators move.
    """
    check_seen(connection, who, name)
    there, owner = _owner(connection, name)
    if not there and not all(map(who.may_see, registry.owners(connection, name))):
        raise no_such_alias(name)
    if there and not who.may_change(owner):
        raise SumikaError(
            "not_owner",
            f"'{name}' belongs to no team, so administrators alone move it. Ask one to do it, or to give it to your team: 'sumika aliases assign {name} TEAM'.",
            f"「{name}」はどのチームにも属していないため、切り替えは管理者だけができます。管理者に依頼するか、sumika aliases assign {name} TEAM でチームに割り当ててもらってください。",
            status=403,
        )


def check_trained_by(connection: Connection, who: Principal, name: str, param: str) -> None:
    """Raises SumikaError `forbidden` (403), where versions made for `name` would be beyond the key's scope or another team's."""
    owners = {_owner(connection, name)[1], *registry.owners(connection, name)}
    if not who.may_use(name) or not all(map(who.may_see, owners)):
        raise SumikaError(
            "forbidden",
            f"This key may not make '{name}'; choose a name that it may use and that is no other team's, or ask your administrator.",
            f"このキーでは「{name}」を作成できません。利用でき、他チームのものではない名前を指定するか、管理者に依頼してください。",
            status=403,
            param=param,
        )


def check_registered_for(connection: Connection, owner: str, name: str) -> None:
    """Raises SumikaError `name_taken` (409), where `name` became another's while something was made for it."""
    owners = {_owner(connection, name)[1], *registry.owners(connection, name)}
    if owner != OPERATOR and owners - {owner, None}:
        raise SumikaError(
            "name_taken",
            f"'{name}' became another team's while this was made, so it was not registered. Submit the job again under another name.",
            f"学習中に「{name}」が他チームの名前になったため、登録しませんでした。別の名前でジョブを登録し直してください。",
            status=409,
        )


def assign(connection: Connection, name: str, owner: str | None) -> Alias:
    """Make an alias somebody else's; None: administrators alone move it. Raises SumikaError `not_found`."""
    before = get(connection, name)
    connection.execute(update(_a).where(_a.c.name == name).values(owner=owner))
    audit.append(connection, Action.ALIAS_ASSIGN, name, details={"from": before.owner, "to": owner})
    return get(connection, name)


def _owner(connection: Connection, name: str) -> tuple[bool, str | None]:
    """Whether the alias, or an open move that will make it, is there; and whose it is."""
    found = find(connection, name)
    if found is not None:
        return True, found.owner
    coming = next((move for move in moves.list_open(connection) if move.alias == name), None)
    return coming is not None, None if coming is None else coming.owner


def ask_deploy(
    connection: Connection, alias: str, to: Version, *, actor: str, reason: str, override: bool = False, owner: str | None = None
) -> Move:
    """Record the wish that `alias` serve `to`. `owner`: whose it will be, where it is a new one.

    Raises:
        SumikaError: `bad_name`; `not_found`, for a version that was removed meanwhile; `gate_refused`, for a version that failed its evaluation, unless `override` with a
            `reason`; `canary_running`; `move_open` (409), while another move of this alias is under way.
    """
    check_name(alias)
    registry.get(connection, to.ref)
    _check_gate(to, override, reason)
    now = find(connection, alias)
    _check_no_canary(now)
    return _ask(connection, alias, now, to.id, "deploy", actor, reason, owner=owner)


def ask_canary(
    connection: Connection, alias: str, to: Version, share: int, *, actor: str, reason: str, override: bool = False
) -> Move:
    """Record the wish that `share` percent (1 to 99) of the keys of `alias` be served by `to`; again with another
    share to change it.

    Raises:
        SumikaError: as `ask_deploy`; `not_found` for the alias too; `bad_share`; `same_version`.
    """
    now = get(connection, alias)
    if not 1 <= share <= 99:
        raise SumikaError(
            "bad_share",
            f"A canary's share is 1 to 99 percent, not {share}. To move everybody: 'sumika deploy {alias} {to.ref}'.",
            f"カナリアの割合は 1〜99 % です({share} は指定できません)。全体を切り替えるには sumika deploy {alias} {to.ref} を使います。",
        )
    if to.id == now.version_id:
        raise SumikaError(
            "same_version",
            f"'{alias}' serves {to.ref} already; a canary is another version.",
            f"「{alias}」はすでに {to.ref} です。カナリアには別の版を指定してください。",
            status=409,
        )
    registry.get(connection, to.ref)
    _check_gate(to, override, reason)
    if now.canary_id != to.id:
        _check_no_canary(now)
    return _ask(connection, alias, now, to.id, "canary", actor, reason, share)


def ask_promote(connection: Connection, alias: str, *, actor: str, reason: str, override: bool = False) -> Move:
    """Record the wish that the canary of `alias` serve everybody.

    Raises:
        SumikaError: `not_found`, `no_canary`, `move_open`; `gate_refused`, as `ask_deploy`.
    """
    now = get(connection, alias)
    if now.canary_id is None:
        raise _no_canary(alias)
    _check_gate(registry.by_id(connection, now.canary_id), override, reason)
    return _ask(connection, alias, now, now.canary_id, "promote", actor, reason)


def ask_rollback(connection: Connection, alias: str, *, actor: str, reason: str, override: bool = False) -> Move:
    """Record the wish that `alias` serve again what it served before its last finished move.

    Raises:
        SumikaError: `not_found` (also for a version that was removed) or `nothing_before`; `canary_running`; `move_open`;
            `gate_refused`, as `ask_deploy`.
    """
    now = get(connection, alias)
    _check_no_canary(now)
    last = before(connection, now)
    if last is None:
        raise SumikaError(
            "nothing_before",
            f"'{alias}' has no version before the one it serves; deploy the one you want with 'sumika deploy'.",
            f"「{alias}」には戻せる前の版がありません。sumika deploy で版を指定してください。",
            status=409,
        )
    target = registry.get(connection, registry.by_id(connection, last).ref)
    _check_gate(target, override, reason)
    return _ask(connection, alias, now, target.id, "rollback", actor, reason)


def abort(connection: Connection, alias: str, *, actor: str, reason: str) -> Move:
    """End the canary of `alias`, or its open move, at once; the version in service stays. Needs no supervisor.

    Raises:
        SumikaError: `nothing_to_abort`.
    """
    under_way = next((move for move in moves.list_open(connection) if move.alias == alias), None)
    if under_way is not None:
        audit.append(connection, Action.ALIAS_ABORT, alias, reason=reason, actor=actor, details={"move": under_way.id})
        moves.refuse(connection, under_way, _aborted(under_way, actor, reason))
        return moves.get(connection, under_way.id)
    now = get(connection, alias)
    if now.canary_id is None:
        raise SumikaError(
            "nothing_to_abort",
            f"'{alias}' has no canary and no open move. To go back a version: 'sumika rollback {alias}'.",
            f"「{alias}」には中止できるカナリアも切り替えもありません。前の版に戻すには sumika rollback {alias} を使います。",
            status=409,
        )
    move = moves.add(
        connection, alias, "abort", from_id=now.canary_id, to_id=now.version_id, generation=now.generation,
        actor=actor, reason=reason, owner=now.owner,
    )  # fmt: skip
    finish(connection, move, None)
    return moves.get(connection, move.id)


def remove(connection: Connection, name: str, *, actor: str, reason: str) -> Alias:
    """Remove an alias, its limits and this month's count. Its history stays, for administrators and whose it was; engines that no
    other alias needs are ended by the supervisor.

    Raises:
        SumikaError: `not_found`; `move_open` and `canary_running` (409), until those are ended.
    """
    alias = get(connection, name)
    moves.check_none_open(connection, name)
    _check_no_canary(alias)
    connection.execute(delete(_a).where(_a.c.name == name))
    if limits.find(connection, ("alias", name)) != limits.NONE:
        limits.clear(connection, ("alias", name))
    totals = schema.usage_totals
    connection.execute(delete(totals).where(totals.c.kind == "alias", totals.c.name == name))
    served = str(registry.by_id(connection, alias.version_id).ref)
    audit.append(connection, Action.ALIAS_REMOVE, name, reason=reason, actor=actor, details={"version": served})
    return alias


def before(connection: Connection, alias: Alias) -> int | None:
    """The id of the version that a rollback would lead back to. An alias that was removed and made again begins anew."""
    made = select(func.max(_m.c.id)).where(_m.c.alias == alias.name, _m.c.state == "done", _m.c.generation == 0)
    return connection.scalar(
        select(_m.c.from_id)
        .where(_m.c.id > func.coalesce(made.scalar_subquery(), 0))
        .where(_m.c.alias == alias.name, _m.c.state == "done", _m.c.to_id == alias.version_id, _m.c.from_id.is_not(None))
        .where(_m.c.kind.in_(("deploy", "promote")), _m.c.from_id != alias.version_id)
        .order_by(_m.c.id.desc())
        .limit(1)
    )


def finish(connection: Connection, move: Move, canary: dict[str, Any] | None) -> None:
    """Do what the move asks, in the caller's transaction, if nobody changed the alias or ended the move meanwhile.

    Raises:
        SumikaError: `moved_meanwhile` (409), when the alias is at another generation than when the move was asked;
            `move_ended` (409); `not_found`, when the version was removed.
    """
    registry.get(connection, move.to_ref)
    leads: dict[str, int | None] = {"version_id": move.to_id, "canary_id": None, "canary_share": None}
    if move.kind == "canary":
        leads = {"canary_id": move.to_id, "canary_share": move.share}
    if move.generation == 0:
        if find(connection, move.alias) is not None:
            raise _moved_meanwhile(connection, move)
        connection.execute(insert(_a).values(name=move.alias, generation=1, moved_at=clock.now(), owner=move.owner, **leads))
    else:
        moved = connection.execute(
            update(_a)
            .where(_a.c.name == move.alias, _a.c.generation == move.generation)
            .values(generation=move.generation + 1, moved_at=clock.now(), **leads)
        )
        if moved.rowcount != 1:
            raise _moved_meanwhile(connection, move)
    moves.finish(connection, move, canary)


def _ask(
    connection: Connection,
    alias: str,
    now: Alias | None,
    to_id: int,
    kind: Kind,
    actor: str,
    reason: str,
    share: int | None = None,
    owner: str | None = None,
) -> Move:
    return moves.add(
        connection, alias, kind, from_id=now.version_id if now else None, to_id=to_id,
        generation=now.generation if now else 0, actor=actor, reason=reason, share=share, owner=now.owner if now else owner,
    )  # fmt: skip


def _check_gate(to: Version, override: bool, reason: str) -> None:
    if to.gate == "refused" and not (override and reason):
        raise SumikaError(
            "gate_refused",
            f"{to.ref} failed its evaluation and may not serve. See 'sumika models show {to.ref}'; "
            "to serve it all the same, add --override --reason '…' (kept in the history).",
            f"{to.ref} は評価に合格していないため配備できません(詳細: sumika models show {to.ref})。"
            "それでも配備する場合は --override --reason '…' を付けてください(履歴に残ります)。",
            status=409,
        )


def _check_no_canary(now: Alias | None) -> None:
    if now is not None and now.canary_id is not None:
        raise SumikaError(
            "canary_running",
            f"'{now.name}' has a canary at {now.canary_share} %. End it first: 'sumika promote {now.name}' or 'sumika abort {now.name}'.",
            f"「{now.name}」はカナリア({now.canary_share} %)の実施中です。先に sumika promote {now.name} か sumika abort {now.name} で終えてください。",
            status=409,
        )


def _no_canary(alias: str) -> SumikaError:
    return SumikaError(
        "no_canary",
        f"'{alias}' has no canary. Start one with 'sumika deploy {alias} NAME@N --canary 10'.",
        f"「{alias}」にカナリアはありません。sumika deploy {alias} NAME@N --canary 10 で始められます。",
        status=409,
    )


def _aborted(move: Move, actor: str, reason: str) -> SumikaError:
    why = f" ({reason})" if reason else ""
    return SumikaError(
        "aborted",
        f"The move of '{move.alias}' to {move.to_ref} was ended by {actor}{why}.",
        f"「{move.alias}」の {move.to_ref} への切り替えは {actor} が中止しました{why}。",
        status=409,
    )


def _moved_meanwhile(connection: Connection, move: Move) -> SumikaError:
    last = next((m for m in moves.history(connection, move.alias) if m.state == "done" and m.id != move.id), None)
    by = f" by {last.actor}, to {last.to_ref}" if last else ""
    return SumikaError(
        "moved_meanwhile",
        f"'{move.alias}' was moved meanwhile{by}. Look at 'sumika status' and ask again if you still want {move.to_ref}.",
        f"「{move.alias}」はその間に切り替えられました{f'({last.actor} が {last.to_ref} へ)' if last else ''}。"
        f"sumika status を確認し、必要ならやり直してください。",
        status=409,
    )
