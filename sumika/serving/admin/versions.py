"""`/admin/v1/versions`: what the registry holds."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from sumika.models import aliases, registry, version_facts
from sumika.models.names import VersionRef
from sumika.models.registry import Version
from sumika.models.settings import Settings
from sumika.models.store import Store
from sumika.serving.admin.asking import After, Limit, number, page

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
        told = {name: value for name, value in facts.items() if name not in version.meta and name not in _HIDDEN}
        return told | _shown(version) | {"meta": version.meta}

    return routes


def _shown(version: Version) -> dict[str, Any]:
    return {
        "version": str(version.ref), "kind": version.kind, "base": str(version.base) if version.base else None,
        "digest": version.digest, "gate": version.gate, "created_at": version.created_at,
    }  # fmt: skip
