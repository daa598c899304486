"""`/admin/v1/imports`: versions made of what lies in the server's folder `incoming`, by a process that may take its time."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field

from sumika.models import registry
from sumika.models.settings import Settings
from sumika.models.store import Store
from sumika.serving.admin.asking import Asker, Body, actor
from sumika.serving.bringing_in import BringingIn


class NewImport(Body):
    """`source`: a name in the folder `incoming`; `base`: of an adapter that is no archive."""

    source: Annotated[str, Field(max_length=255)]
    name: Annotated[str, Field(max_length=64)]
    base: Annotated[str, Field(max_length=80)] | None = None


def router(store: Store, settings: Settings) -> APIRouter:
    routes, imports = APIRouter(prefix="/imports"), BringingIn(settings.layout)

    @routes.get("")
    def list_imports(who: Asker) -> dict[str, Any]:
        """The last ones, newest first, and what could be imported; none whose version is another team's by now."""
        with store.read() as connection:
            hidden = {str(version.ref) for version in registry.list_all(connection) if not who.may_see(version.owner)}
        return {"data": [asdict(one) for one in imports.list_all() if one.version not in hidden], "sources": imports.sources()}

    @routes.post("", status_code=202)
    async def begin(who: Asker, asked: NewImport) -> dict[str, Any]:
        return asdict(await imports.begin(asked.source, asked.name, asked.base, actor(who)))

    return routes
