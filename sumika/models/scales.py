"""How many engines a base shall have. Kept by the base's name, so that a new version of it gets as many."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select

from sumika.models import audit, clock, schema
from sumika.models.audit import Action
from sumika.models.errors import SumikaError, not_found

LIMIT = 64

_s = schema.scales


def by_base(connection: Connection) -> dict[str, int]:
    """Engines by base name; a name that is not there has one."""
    return {row.base: row.replicas for row in connection.execute(select(_s.c.base, _s.c.replicas))}


def put(connection: Connection, base: str, replicas: int, *, actor: str) -> None:
    """Ask for `replicas` engines for every served version of `base`.

    Raises:
        SumikaError: `not_found`, when no base has this name; `bad_replicas`.
    """
    known = select(schema.versions.c.id).where(schema.versions.c.name == base, schema.versions.c.kind == "base")
    if connection.execute(known.limit(1)).first() is None:
        raise not_found(
            "base",
            "ベースモデル",
            base,
            "'sumika models list' shows what there is.",
            "一覧は sumika models list で確認できます。",
        )
    if not 1 <= replicas <= LIMIT:
        raise SumikaError(
            "bad_replicas",
            f"A base has 1 to {LIMIT} engines, not {replicas}. One that no alias leads to has none by itself.",
            f"エンジン数は 1〜{LIMIT} です({replicas} は指定できません)。どのエイリアスからも使われないベースのエンジンは自動で終了します。",
        )
    connection.execute(delete(_s).where(_s.c.base == base))
    connection.execute(insert(_s).values(base=base, replicas=replicas, actor=actor, changed_at=clock.now()))
    audit.append(connection, Action.BASE_SCALE, base, actor=actor, details={"replicas": replicas})
