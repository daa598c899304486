"""`/admin/v1`: what the console and programs do with keys, teams, aliases and versions. `access.TABLE` says who may."""

from __future__ import annotations

from fastapi import APIRouter

from sumika.models.errors import SumikaError
from sumika.models.settings import Settings
from sumika.models.store import Store
from sumika.serving import vllm
from sumika.serving.admin import (
    aliases,
    auditing,
    costs,
    imports,
    jobs,
    keys,
    limits,
    moves,
    plans,
    sessions,
    status,
    teams,
    usage,
    versions,
)
from sumika.serving.memory import Meter, meter

PREFIX = "/admin/v1"


def router(store: Store, settings: Settings) -> APIRouter:
    """All routes, over `store`."""
    made = APIRouter(prefix=PREFIX)
    gauge = _gauge(settings)
    for part in (keys, teams, aliases, moves, limits, usage, sessions):
        made.include_router(part.router(store))
    for one in (versions, jobs, auditing, imports, costs):
        made.include_router(one.router(store, settings))
    made.include_router(status.router(store, gauge))
    made.include_router(plans.router(store, settings, gauge))
    return made


def _gauge(settings: Settings) -> Meter:
    """Of the memory that engines take. A GPU that is silent stops the supervisor, which says so; the gateway goes on without its figures."""
    try:
        return meter(vllm.device(settings.engine))
    except SumikaError:
        return meter("cpu")
