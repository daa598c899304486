"""`/admin/v1/keys`: an administrator's are all; an engineer's the apps of their own team."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import AwareDatetime, BeforeValidator, Field

from sumika.models import audit, keys, people
from sumika.models.audit import Action
from sumika.models.keys import Key
from sumika.models.principals import USUAL, Endpoint, Role, Sensitivity
from sumika.models.store import Store
from sumika.serving.admin.asking import After, Asker, Body, Limit, actor, page


def _moment(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("write a moment such as 2027-03-31T23:59:59+09:00")
    moment = datetime.fromisoformat(value)
    try:
        return moment if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("write a moment before the year 9999") from None


_Moment = Annotated[AwareDatetime, BeforeValidator(_moment)]


class NewKey(Body):
    name: Annotated[str, Field(max_length=64)]
    role: Role = "app"
    team: Annotated[str, Field(max_length=64)] | None = None
    aliases: Annotated[list[str], Field(max_length=1000)] | None = None
    endpoints: Annotated[list[Endpoint], Field(max_length=16)] | None = None
    sensitivity: Sensitivity = USUAL
    expires_at: _Moment | None = None


class Rotation(Body):
    overlap_s: int = Field(default=24 * 3600, ge=0, le=int(keys.LONGEST_OVERLAP.total_seconds()))


def router(store: Store) -> APIRouter:
    routes = APIRouter(prefix="/keys")

    @routes.get("")
    def list_keys(who: Asker, limit: Limit = 50, after: After = "", team: str | None = None) -> dict[str, Any]:
        with store.read() as connection:
            rows = keys.page(connection, who, team=team, after=after, limit=limit + 1)
        return page(rows, limit, lambda key: key.id, Key.shown)

    @routes.post("", status_code=201)
    def create(who: Asker, asked: NewKey) -> dict[str, Any]:
        """The secret stands in this answer and nowhere else, ever."""
        by = actor(who)
        with audit.refusals(store, Action.KEY_CREATE, asked.name, by), store.write(by=by) as connection:
            secret, key = keys.create(connection, creator=who, **dict(asked))
        return {"key": secret, **key.shown()}

    @routes.get("/{key_id}")
    def show(key_id: str) -> dict[str, Any]:
        with store.read() as connection:
            return people.named(connection, [keys.get(connection, key_id).shown()], "creator")[0]

    @routes.post("/{key_id}/rotate")
    def rotate(who: Asker, key_id: str, asked: Rotation = Rotation()) -> dict[str, Any]:  # noqa: B008 - frozen
        by = actor(who)
        with audit.refusals(store, Action.KEY_ROTATE, key_id, by), store.write(by=by) as connection:
            secret, key = keys.rotate(connection, key_id, timedelta(seconds=asked.overlap_s), by=who)
        return {"key": secret, **key.shown()}

    @routes.post("/{key_id}/revoke")
    def revoke(who: Asker, key_id: str) -> dict[str, Any]:
        by = actor(who)
        with audit.refusals(store, Action.KEY_REVOKE, key_id, by), store.write(by=by) as connection:
            return keys.revoke(connection, key_id).shown()

    return routes
