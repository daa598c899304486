"""`/admin/v1/versions`: what the registry holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from sumika.models import aliases, archive, audit, exporting, people, registry, teams, version_facts
from sumika.models.actor import Actor
from sumika.models.audit import Action
from sumika.models.names import VersionRef
from sumika.models.principals import Principal
from sumika.models.registry import Version
from sumika.models.settings import Settings
from sumika.models.store import Store
from sumika.serving.admin.aliases import NewOwner
from sumika.serving.admin.asking import After, Asker, Limit, actor, number, page

# Where this machine keeps it is nobody's to know.
_HIDDEN = ("folder",)
# Of how a version was trained.
_OWNERS = ("config", "data")


def router(store: Store, settings: Settings) -> APIRouter:
    routes = APIRouter(prefix="/versions")

    @routes.get("")
    def list_versions(who: Asker, limit: Limit = 50, after: After = "", name: str | None = None) -> dict[str, Any]:
        with store.read() as connection:
            rows = registry.page(connection, who, name, after=number(after) or 0, limit=limit + 1)
            served: dict[int, list[str]] = {}
            for alias in aliases.seen_by(connection, who):
                served.setdefault(alias.version_id, []).append(alias.name)
        return page(rows, limit, lambda version: version.id, lambda v: _shown(v) | {"aliases": served.get(v.id, [])})

    @routes.get("/{ref}")
    def show(who: Asker, ref: str) -> dict[str, Any]:
        with store.read() as connection:
            version = registry.get(connection, VersionRef.parse(ref))
            facts = version_facts.whole(connection, version, settings.layout, who)
            facts["moves"] = people.named(connection, facts["moves"])
        told = {name: value for name, value in facts.items() if name not in version.meta and name not in _HIDDEN}
        return told | _shown(version) | {"meta": _meta(version, who)}

    @routes.post("/{ref}/owner")
    def assign(who: Asker, ref: str, wish: NewOwner) -> dict[str, Any]:
        by = actor(who)
        with audit.refusals(store, Action.MODEL_ASSIGN, ref, by), store.write(by=by) as connection:
            owner = None if wish.team is None else teams.get(connection, wish.team, lock=True).id
            return _shown(registry.assign(connection, registry.get(connection, VersionRef.parse(ref)), owner))

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


def _meta(version: Version, who: Principal) -> dict[str, Any]:
    """How it was trained names files and prompts: for its owner and administrators."""
    if who.may_change(version.owner):
        return version.meta
    training = version.meta.get("training")
    if not isinstance(training, dict):
        return version.meta
    return version.meta | {"training": {name: value for name, value in training.items() if name not in _OWNERS}}


def _shown(version: Version) -> dict[str, Any]:
    return {
        "version": str(version.ref), "kind": version.kind, "base": str(version.base) if version.base else None,
        "digest": version.digest, "gate": version.gate, "created_at": version.created_at,
        "owner": version.owner,
    }  # fmt: skip
