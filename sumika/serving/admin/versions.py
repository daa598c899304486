"""`/admin/v1/versions`: what the registry holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from sumika.models import aliases, archive, audit, exporting, people, registry, version_facts
from sumika.models.actor import Actor
from sumika.models.audit import Action
from sumika.models.names import VersionRef
from sumika.models.registry import Version
from sumika.models.settings import Settings
from sumika.models.store import Store
from sumika.serving.admin.asking import After, Asker, Limit, actor, number, page

# Where this machine keeps it is nobody's to know.
_HIDDEN = ("folder",)


def router(store: Store, settings: Settings) -> APIRouter:
    routes = APIRouter(prefix="/versions")

    @routes.get("")
    def list_versions(limit: Limit = 50, after: After = "", name: str | None = None) -> dict[str, Any]:
        with store.read() as connection:
            rows = registry.page(connection, name, after=number(after) or 0, limit=limit + 1)
            served: dict[int, list[str]] = {}
            for alias in aliases.list_all(connection):
                served.setdefault(alias.version_id, []).append(alias.name)
        return page(rows, limit, lambda version: version.id, lambda v: _shown(v) | {"aliases": served.get(v.id, [])})

    @routes.get("/{ref}")
    def show(ref: str) -> dict[str, Any]:
        with store.read() as connection:
            version = registry.get(connection, VersionRef.parse(ref))
            facts = version_facts.whole(connection, version, settings.layout)
            facts["moves"] = people.named(connection, facts["moves"])
        told = {name: value for name, value in facts.items() if name not in version.meta and name not in _HIDDEN}
        return told | _shown(version) | {"meta": version.meta}

    @routes.get("/{ref}/export")
    def export(who: Asker, ref: str) -> StreamingResponse:
        """The signed archive that `sumika models export` writes; one that can't be read to its end breaks off."""
        by = actor(who)
        with audit.refusals(store, Action.MODEL_EXPORT, ref, by):
            header, pieces = exporting.outgoing(store, settings.layout, VersionRef.parse(ref))
        name = f"{header.name}-{header.number}{archive.SUFFIX}"
        headers = {"content-disposition": f'attachment; filename="{name}"', "content-length": str(archive.size(header))}
        return StreamingResponse(_told(store, by, ref, pieces), media_type="application/octet-stream", headers=headers)

    return routes


def _told(store: Store, by: Actor, ref: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same, with a row of the log before and after."""
    with store.write(by=by) as connection:
        audit.append(connection, Action.MODEL_EXPORT, ref, outcome="asked")
    yield from pieces
    with store.write(by=by) as connection:
        audit.append(connection, Action.MODEL_EXPORT, ref)


def _shown(version: Version) -> dict[str, Any]:
    return {
        "version": str(version.ref), "kind": version.kind, "base": str(version.base) if version.base else None,
        "digest": version.digest, "gate": version.gate, "created_at": version.created_at,
    }  # fmt: skip
