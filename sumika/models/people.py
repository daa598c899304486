"""Names of those who act: rows keep ids (`oidc:company:5f1c0a3e`, a key's `3fa9c1d2b4e6`), people want to read who it was."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, select

from sumika.models import schema

_k, _s = schema.keys, schema.sessions


def names(connection: Connection, ids: Iterable[str]) -> dict[str, str]:
    """By id: a key's name, ended or not; of somebody from an issuer the name of their newest session, while one is kept.
    Who has no name is not in it."""
    wanted = set(ids)
    of_keys = connection.execute(select(_k.c.id, _k.c.name).where(_k.c.id.in_(wanted)))
    of_people = connection.execute(select(_s.c.principal, _s.c.name).where(_s.c.principal.in_(wanted)).order_by(_s.c.began_at))
    return {id: name for id, name in [*of_keys, *of_people] if name}


def named(connection: Connection, rows: list[dict[str, Any]], field: str = "actor") -> list[dict[str, Any]]:
    """The same rows, each with `FIELD_name` beside its `field`: None where no name is known."""
    known = names(connection, (row[field] for row in rows))
    return [row | {f"{field}_name": known.get(row[field])} for row in rows]
