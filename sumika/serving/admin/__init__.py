"""`/admin/v1`: what the console and programs do with keys, teams, aliases and versions. `access.TABLE` says who may."""

from __future__ import annotations

from fastapi import APIRouter

from sumika.models.store import Store
from sumika.serving.admin import aliases, keys, moves, status, teams, versions

PREFIX = "/admin/v1"


def router(store: Store) -> APIRouter:
    """All routes, over `store`."""
    made = APIRouter(prefix=PREFIX)
    for part in (status, keys, teams, aliases, moves, versions):
        made.include_router(part.router(store))
    return made
