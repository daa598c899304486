"""`/admin/v1/teams`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field

from sumika.models import audit, teams
from sumika.models.audit import Action
from sumika.models.store import Store
from sumika.serving.admin.asking import After, Asker, Body, Limit, actor, page


class NewTeam(Body):
    name: Annotated[str, Field(max_length=64)]
    title: Annotated[str, Field(max_length=128)] = ""


def router(store: Store) -> APIRouter:
    routes = APIRouter(prefix="/teams")

    @routes.get("")
    def list_teams(limit: Limit = 50, after: After = "") -> dict[str, Any]:
        with store.read() as connection:
            rows = [team for team in teams.list_all(connection) if team.name > after]
        return page(rows, limit, lambda team: team.name, asdict)

    @routes.post("", status_code=201)
    def create(who: Asker, asked: NewTeam) -> dict[str, Any]:
        by = actor(who)
        with audit.refusals(store, Action.TEAM_CREATE, asked.name, by), store.write(by=by) as connection:
            return asdict(teams.create(connection, asked.name, asked.title))

    @routes.delete("/{name}")
    def remove(who: Asker, name: str) -> dict[str, Any]:
        by = actor(who)
        with audit.refusals(store, Action.TEAM_REMOVE, name, by), store.write(by=by) as connection:
            return asdict(teams.remove(connection, name))

    return routes
