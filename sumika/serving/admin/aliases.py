"""`/admin/v1/aliases`: where each leads, and asking it to lead elsewhere. Answers come at once; a move ends later.
Removing one is done at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field
from sqlalchemy import Connection

from sumika.models import aliases, audit, moves, people, registry, teams
from sumika.models.aliases import Alias
from sumika.models.audit import Action
from sumika.models.names import VersionRef
from sumika.models.principals import Principal
from sumika.models.store import Store
from sumika.serving.admin.asking import After, Asker, Body, Limit, actor, page

_Reason = Annotated[str, Field(max_length=1000)]


class Change(Body):
    reason: _Reason = ""


class Return(Change):
    override: bool = False


class Deployment(Return):
    version: Annotated[str, Field(max_length=80)]


class Canary(Deployment):
    share: int = Field(ge=1, le=99)


class NewOwner(Body):
    """`team`: by its name; null: administrators alone."""

    team: Annotated[str, Field(max_length=64)] | None


def router(store: Store) -> APIRouter:
    routes = APIRouter(prefix="/aliases")
    _add_reading(routes, store)
    _add_changing(routes, store)
    return routes


def _add_reading(routes: APIRouter, store: Store) -> None:
    @routes.get("")
    def list_aliases(who: Asker, limit: Limit = 50, after: After = "") -> dict[str, Any]:
        with store.read() as connection:
            rows = [alias for alias in aliases.seen_by(connection, who) if alias.name > after]
            shown = described(connection, rows[:limit])
        return page(rows, limit, lambda alias: alias.name, lambda alias: shown[alias.name])

    @routes.get("/{alias}")
    def show(who: Asker, alias: str) -> dict[str, Any]:
        with store.read() as connection:
            found, lives = aliases.get(connection, alias), aliases.lives(connection)
            seen = [move for move in moves.history(connection, alias, limit=10) if aliases.sees_move(who, move, lives)]
            recent = people.named(connection, [move.shown(who) for move in seen])
            back = aliases.before(connection, found)
            before = registry.by_id(connection, back) if back else None
            previous = (
                {"previous": str(before.ref), "previous_gate": before.gate}
                if before
                else {"previous": None, "previous_gate": None}
            )
            return described(connection, [found])[alias] | previous | {"moves": recent}


def _add_changing(routes: APIRouter, store: Store) -> None:
    @contextmanager
    def asked(who: Principal, action: Action, alias: str) -> Iterator[Connection]:
        """A transaction in which `who` asks something of `alias`."""
        by = actor(who)
        with audit.refusals(store, action, alias, by), store.write(by=by) as connection:
            aliases.check_moved_by(connection, who, alias)  # once more: another team may have been first in the meantime
            yield connection

    @routes.post("/{alias}/owner")
    def assign(who: Asker, alias: str, wish: NewOwner) -> dict[str, Any]:
        by = actor(who)
        with audit.refusals(store, Action.ALIAS_ASSIGN, alias, by), store.write(by=by) as connection:
            owner = None if wish.team is None else teams.get(connection, wish.team, lock=True).id
            return described(connection, [aliases.assign(connection, alias, owner)])[alias]

    @routes.delete("/{alias}")
    def remove(who: Asker, alias: str, reason: Annotated[str, Query(max_length=1000)] = "") -> dict[str, Any]:
        with asked(who, Action.ALIAS_REMOVE, alias) as connection:
            shown = described(connection, [aliases.get(connection, alias)])[alias]
            aliases.remove(connection, alias, actor=who.id, reason=reason)
            return shown

    @routes.post("/{alias}/deploy", status_code=202)
    def deploy(who: Asker, alias: str, wish: Deployment) -> dict[str, Any]:
        with asked(who, Action.ALIAS_DEPLOY, alias) as connection:
            to = registry.seen(connection, who, VersionRef.parse(wish.version))
            return aliases.ask_deploy(
                connection, alias, to, actor=who.id, reason=wish.reason, override=wish.override, owner=_made_for(who)
            ).shown(who)  # fmt: skip

    @routes.post("/{alias}/canary", status_code=202)
    def canary(who: Asker, alias: str, wish: Canary) -> dict[str, Any]:
        with asked(who, Action.ALIAS_CANARY, alias) as connection:
            to = registry.seen(connection, who, VersionRef.parse(wish.version))
            return aliases.ask_canary(
                connection, alias, to, wish.share, actor=who.id, reason=wish.reason, override=wish.override
            ).shown(who)  # fmt: skip

    @routes.post("/{alias}/promote", status_code=202)
    def promote(who: Asker, alias: str, wish: Return = Return()) -> dict[str, Any]:  # noqa: B008 - frozen
        with asked(who, Action.ALIAS_PROMOTE, alias) as connection:
            return aliases.ask_promote(connection, alias, actor=who.id, reason=wish.reason, override=wish.override).shown(who)

    @routes.post("/{alias}/rollback", status_code=202)
    def rollback(who: Asker, alias: str, wish: Return = Return()) -> dict[str, Any]:  # noqa: B008
        with asked(who, Action.ALIAS_ROLLBACK, alias) as connection:
            return aliases.ask_rollback(connection, alias, actor=who.id, reason=wish.reason, override=wish.override).shown(who)

    @routes.post("/{alias}/abort")
    def abort(who: Asker, alias: str, wish: Change = Change()) -> dict[str, Any]:  # noqa: B008
        with asked(who, Action.ALIAS_ABORT, alias) as connection:
            return aliases.abort(connection, alias, actor=who.id, reason=wish.reason).shown(who)


def _made_for(who: Principal) -> str | None:
    """Whose a new alias is: its maker's; of an administrator without a team everybody's."""
    return who.team_id if who.role == "admin" else who.owner


def described(connection: Connection, rows: list[Alias]) -> dict[str, dict[str, Any]]:
    """By name."""
    owners = teams.names(connection)
    ids = {alias.version_id for alias in rows} | {alias.canary_id for alias in rows if alias.canary_id}
    versions = registry.by_ids(connection, ids)

    def shown(alias: Alias) -> dict[str, Any]:
        canary = {"version": str(versions[alias.canary_id].ref), "share": alias.canary_share} if alias.canary_id else None
        version = versions[alias.version_id]
        return {
            "alias": alias.name, "version": str(version.ref), "base": str(version.base) if version.base else None,
            "canary_gate": versions[alias.canary_id].gate if alias.canary_id else None, "generation": alias.generation, "moved_at": alias.moved_at, "canary": canary,
            "owner": alias.owner, "team": owners.get(alias.owner or ""),
        }  # fmt: skip

    return {alias.name: shown(alias) for alias in rows}
