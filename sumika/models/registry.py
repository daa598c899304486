"""The registry of immutable versions: what exists, what it was made from, and whether it may serve."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Row, func, insert, or_, select, update

from sumika.models import audit, clock, ownership, schema
from sumika.models.audit import Action
from sumika.models.errors import SumikaError, not_found
from sumika.models.names import VersionRef, check_name
from sumika.models.principals import Principal

Kind = Literal["base", "adapter"]
Gate = Literal["none", "passed", "refused"]

_v = schema.versions
_base = schema.versions.alias("base")


@dataclass(frozen=True, slots=True)
class Version:
    """One row of the registry. `folder` is relative to the artifacts folder; `base` is set for adapters only. `owner`: whose it is
    (`Principal.owner`); None: everybody's."""

    id: int
    ref: VersionRef
    kind: Kind
    base_id: int | None
    base: VersionRef | None
    folder: str
    digest: str
    gate: Gate
    meta: dict[str, Any]
    created_at: str
    removed_at: str | None = None
    owner: str | None = None

    @property
    def engine_base_id(self) -> int:
        """The base version whose engine serves this one: its own for a base."""
        return self.base_id if self.base_id is not None else self.id


_COLUMNS = select(_v, _base.c.name.label("base_name"), _base.c.number.label("base_number")).select_from(
    _v.outerjoin(_base, _v.c.base_id == _base.c.id)
)


def _version(row: Row[Any]) -> Version:
    base = VersionRef(row.base_name, row.base_number) if row.base_id is not None else None
    return Version(
        row.id, VersionRef(row.name, row.number), row.kind, row.base_id, base,
        row.folder, row.digest, row.gate, row.meta, row.created_at, row.removed_at, row.owner,
    )  # fmt: skip


def add(
    connection: Connection,
    name: str,
    *,
    kind: Kind,
    folder: str,
    digest: str,
    base: Version | None = None,
    gate: Gate = "none",
    meta: dict[str, Any] | None = None,
    owner: str | None = None,
) -> Version:
    """Register the next version of `name`, whose files already lie complete in `folder`.

    Raises:
        SumikaError: `bad_name`; `wrong_kind`, when `name` has versions of the other kind; `bad_lineage`.
    """
    check_name(name)
    if (kind == "adapter") != (base is not None) or (base is not None and base.kind != "base"):
        raise SumikaError(
            "bad_lineage",
            "An adapter belongs to exactly one base model, and a base to none. Name the base with --base NAME@N.",
            "アダプターには元となるベースモデルが1つ必要です(ベースモデルには不要です)。--base NAME@N で指定してください。",
        )
    kinds = set(connection.scalars(select(_v.c.kind).where(_v.c.name == name)))
    if kinds - {kind}:
        raise SumikaError(
            "wrong_kind",
            f"'{name}' already names a {kinds.pop()}; give this {kind} another name.",
            f"「{name}」はすでに別の種類(ベースモデルまたはアダプター)の名前です。別の名前にしてください。",
            status=409,
        )
    last = connection.scalar(select(func.max(_v.c.number)).where(_v.c.name == name)) or 0
    connection.execute(
        insert(_v).values(
            name=name, number=last + 1, kind=kind, base_id=base.id if base else None, folder=folder,
            digest=digest, gate=gate, meta=meta or {}, created_at=clock.now(), owner=owner,
        )
    )  # fmt: skip
    version = get(connection, VersionRef(name, last + 1))
    told = {"kind": kind, "digest": digest, "base": str(base.ref) if base else None, "gate": gate}
    audit.append(connection, Action.MODEL_IMPORT, str(version.ref), details=told)
    return version


def get(connection: Connection, ref: VersionRef) -> Version:
    """Raises SumikaError `not_found` when the version was never there or is removed."""
    row = connection.execute(
        _COLUMNS.where(_v.c.name == ref.name, _v.c.number == ref.number, _v.c.removed_at.is_(None))
    ).one_or_none()
    if row is None:
        raise _no_such_version(ref)
    return _version(row)


def seen(connection: Connection, who: Principal, ref: VersionRef) -> Version:
    """Raises SumikaError `not_found`, also for one that is not `who`'s to see."""
    version = get(connection, ref)
    if not who.may_see(version.owner):
        raise _no_such_version(ref)
    return version


def _no_such_version(ref: VersionRef) -> SumikaError:
    return not_found(
        "version", "版", str(ref), "'sumika models list' shows what there is.", "一覧は sumika models list で確認できます。"
    )


def owners(connection: Connection, name: str) -> set[str | None]:
    """Who owns versions of `name` that are not removed."""
    return set(connection.scalars(select(_v.c.owner).where(_v.c.name == name, _v.c.removed_at.is_(None))))


def assign(connection: Connection, version: Version, owner: str | None) -> Version:
    """Make a version somebody else's; None: everybody's."""
    connection.execute(update(_v).where(_v.c.id == version.id).values(owner=owner))
    audit.append(connection, Action.MODEL_ASSIGN, str(version.ref), details={"from": version.owner, "to": owner})
    return get(connection, version.ref)


def by_id(connection: Connection, version_id: int) -> Version:
    return _version(connection.execute(_COLUMNS.where(_v.c.id == version_id)).one())


def by_ids(connection: Connection, version_ids: Collection[int]) -> dict[int, Version]:
    """Versions by id, removed ones too, in one query."""
    rows = connection.execute(_COLUMNS.where(_v.c.id.in_(version_ids)))
    return {row.id: _version(row) for row in rows}


def find_digest(connection: Connection, name: str, digest: str, base: Version | None) -> Version | None:
    """The version of `name` that holds exactly these files on this base, if it was registered before."""
    row = connection.execute(
        _COLUMNS.where(_v.c.name == name, _v.c.digest == digest, _v.c.removed_at.is_(None))
        .where(_v.c.base_id.is_(None) if base is None else _v.c.base_id == base.id)
        .order_by(_v.c.number.desc())
    ).first()
    return _version(row) if row else None


def newest(connection: Connection, name: str, seen_by: Principal | None = None) -> Version | None:
    """`seen_by`: of those that are this one's to see; None: of all."""
    seen = [] if seen_by is None else ownership.seen_by(_v, seen_by)
    query = _COLUMNS.where(_v.c.name == name, _v.c.removed_at.is_(None), *seen).order_by(_v.c.number.desc())
    row = connection.execute(query).first()
    return _version(row) if row else None


def list_all(connection: Connection) -> list[Version]:
    rows = connection.execute(_COLUMNS.where(_v.c.removed_at.is_(None)).order_by(_v.c.name, _v.c.number))
    return [_version(row) for row in rows]


def page(connection: Connection, who: Principal, name: str | None = None, *, after: int = 0, limit: int) -> list[Version]:
    """Versions that are not removed and `who`'s to see, by id, from the first one behind `after`."""
    query = _COLUMNS.where(_v.c.removed_at.is_(None), _v.c.id > after, *ownership.seen_by(_v, who)).order_by(_v.c.id).limit(limit)
    return [_version(row) for row in connection.execute(query if name is None else query.where(_v.c.name == name))]


def folders(connection: Connection) -> set[str]:
    """The folders of all versions that are not removed."""
    return set(connection.scalars(select(_v.c.folder).where(_v.c.removed_at.is_(None))))


def remove(connection: Connection, version: Version) -> None:
    """Take a version out of the registry; its files are the caller's to delete after the commit.

    Raises:
        SumikaError: `in_use`, while an alias or an open move points to it or adapters are built on it.
    """
    users = [
        f"alias {a}"
        for a in connection.scalars(
            select(schema.aliases.c.name).where(
                or_(schema.aliases.c.version_id == version.id, schema.aliases.c.canary_id == version.id)
            )
        )
    ]
    users += [
        f"the open move of alias {a}"
        for a in connection.scalars(
            select(schema.moves.c.alias).where(schema.moves.c.to_id == version.id, schema.moves.c.state == "open")
        )
    ]
    children = connection.execute(select(_v.c.name, _v.c.number).where(_v.c.base_id == version.id, _v.c.removed_at.is_(None)))
    users += [f"adapter {VersionRef(row.name, row.number)}" for row in children]
    if users:
        shown = ", ".join(users)
        raise SumikaError(
            "in_use",
            f"{version.ref} can't be removed: {shown} depends on it. Move or remove that first.",
            f"{version.ref} は使用中のため削除できません({shown})。先にそちらを移すか削除してください。",
            status=409,
        )
    connection.execute(update(_v).where(_v.c.id == version.id).values(removed_at=clock.now()))
    audit.append(connection, Action.MODEL_REMOVE, str(version.ref), details={"digest": version.digest})
