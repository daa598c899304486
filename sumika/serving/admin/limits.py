"""`/admin/v1/limits`: how much keys, teams and aliases may use, and what of the month's tokens is spent."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field
from sqlalchemy import Connection

from sumika.models import aliases, audit, clock, keys, limits
from sumika.models.audit import Action
from sumika.models.errors import SumikaError
from sumika.models.limits import Limits, Priority
from sumika.models.principals import Principal
from sumika.models.store import Store
from sumika.models.usage import table
from sumika.models.usage.table import Subject
from sumika.serving.admin.asking import After, Asker, Body, Limit, actor, page


class Change(Body):
    """What is not given stays as it is; null takes a limit away."""

    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None
    streams: Annotated[int, Field(ge=1)] | None = None
    tokens_per_month: Annotated[int, Field(ge=1)] | None = None
    weight: Annotated[int, Field(ge=1)] | None = None
    priority: Priority | None = None


def router(store: Store) -> APIRouter:
    routes = APIRouter(prefix="/limits")

    @routes.get("")
    def list_limits(who: Asker, limit: Limit = 50, after: After = "") -> dict[str, Any]:
        with store.read() as connection:
            spent = table.spent(connection, table.month_of(clock.now()))
            seen = {alias.name for alias in aliases.seen_by(connection, who)}
            found = [
                (subject, one)
                for subject, one in limits.list_all(connection).items()
                if _named(subject) > after and _sees(connection, who, subject, seen)
            ]
        return page(found, limit, lambda row: _named(row[0]), lambda row: _shown(row[0], row[1], spent))

    @routes.post("/{kind}/{name}")
    def change(who: Asker, kind: str, name: str, asked: Change) -> dict[str, Any]:
        by, subject = actor(who), limits.check_subject(kind, name)
        with audit.refusals(store, Action.LIMITS_SET, _named(subject), by), store.write(by=by) as connection:
            limits.check_there(connection, subject)
            now = limits.set_limits(connection, subject, asked.model_dump(exclude_unset=True))
            return _shown(subject, now, table.spent(connection, table.month_of(clock.now())))

    @routes.delete("/{kind}/{name}")
    def clear(who: Asker, kind: str, name: str) -> dict[str, Any]:
        by, subject = actor(who), limits.check_subject(kind, name)
        with audit.refusals(store, Action.LIMITS_CLEAR, _named(subject), by), store.write(by=by) as connection:
            limits.clear(connection, subject)
            return _shown(subject, limits.NONE, table.spent(connection, table.month_of(clock.now())))

    return routes


def _sees(connection: Connection, who: Principal, subject: Subject, seen: Collection[str]) -> bool:
    """An engineer's own team, the keys they manage, and the aliases that they have `seen`."""
    kind, name = subject
    if who.role == "admin":
        return kind != "alias" or who.may_use(name)
    if kind == "alias":
        return name in seen
    if kind == "team":
        return name == who.team
    try:
        key = keys.get(connection, name)
    except SumikaError:
        return False
    return who.may_manage(key.role, key.team_id)


def _named(subject: Subject) -> str:
    return f"{subject[0]}:{subject[1]}"


def _shown(subject: Subject, of: Limits, spent: dict[Subject, int]) -> dict[str, Any]:
    return {"kind": subject[0], "name": subject[1], **asdict(of), "tokens_this_month": spent.get(subject, 0)}
