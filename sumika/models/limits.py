"""How much keys, teams and aliases may use: numbers that people set, kept in the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any, Literal, cast, get_args

from sqlalchemy import ColumnElement, Connection, and_, delete, insert, not_, or_, select

from sumika.models import audit, clock, keys, schema, teams
from sumika.models.audit import Action
from sumika.models.errors import SumikaError, not_found, quoted
from sumika.models.usage.table import Kind, Subject

Priority = Literal["interactive", "batch"]
_l, _k = schema.limits, schema.keys
_MOST = {"requests_per_minute": 10**6, "tokens_per_minute": 10**9, "streams": 10**5, "tokens_per_month": 10**15, "weight": 100}
_LONGEST_NAME = 128


@dataclass(frozen=True, slots=True)
class Limits:
    """None: no limit. `streams`: requests under way at once. `weight`: share where requests wait for a full engine (1 where
    None). `priority`: the most urgent that requests may be (interactive where None)."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    streams: int | None = None
    tokens_per_month: int | None = None
    weight: int | None = None
    priority: Priority | None = None


NAMES = tuple(field.name for field in fields(Limits))
NONE = Limits()


def check_subject(kind: str, name: str) -> Subject:
    """Raises SumikaError `bad_subject`."""
    if kind in get_args(Kind) and 0 < len(name) <= _LONGEST_NAME and name.isprintable() and name == name.strip():
        return cast(Kind, kind), name
    raise SumikaError(
        "bad_subject",
        f"'{quoted(kind)} {quoted(name)}' can't have limits. Name a key by its id, a team or an alias: key ID, team NAME, alias NAME.",
        f"「{quoted(kind)} {quoted(name)}」には上限を設定できません。key ID、team 名前、alias 名前 のいずれかで指定してください。",
    )


def set_limits(connection: Connection, subject: Subject, changes: Mapping[str, Any]) -> Limits:
    """Change what `changes` names (None takes a limit away) and leave the rest; the limits from now on. Those of keys that have
    expired are forgotten on the way.

    Raises:
        SumikaError: `bad_limit`, for an unknown name or a number out of range.
    """
    _check(changes)
    connection.execute(delete(_l).where(_of_ended_keys()))
    limits = Limits(**asdict(find(connection, subject)) | dict(changes))
    _forget(connection, subject)
    if limits != NONE:
        kind, name = subject
        connection.execute(insert(_l).values(kind=kind, name=name, changed_at=clock.now(), **asdict(limits)))
    audit.append(connection, Action.LIMITS_SET, _shown(subject), details=dict(changes))
    return limits


def clear(connection: Connection, subject: Subject) -> None:
    """Raises SumikaError `not_found` where nothing was set."""
    if not _forget(connection, subject):
        raise not_found(
            "limit for", "上限の設定", _shown(subject), "'sumika limits list' shows them.", "sumika limits list で確認できます。"
        )
    audit.append(connection, Action.LIMITS_CLEAR, _shown(subject))


def find(connection: Connection, subject: Subject) -> Limits:
    return list_all(connection).get(subject, NONE)


def list_all(connection: Connection) -> dict[Subject, Limits]:
    rows = connection.execute(select(_l).where(not_(_of_ended_keys())).order_by(_l.c.kind, _l.c.name)).mappings()
    return {(row["kind"], row["name"]): Limits(**{name: row[name] for name in NAMES}) for row in rows}


def check_there(connection: Connection, subject: Subject) -> None:
    """Limits are of what is there; but an alias may be made later, and a person (`oidc:…`) be known to their issuer alone.

    Raises:
        SumikaError: `not_found`; `key_ended` (409).
    """
    kind, name = subject
    if kind == "team":
        teams.get(connection, name, lock=True)
    elif kind == "key" and not name.startswith("oidc:") and not keys.get(connection, name).valid_at(datetime.now(UTC)):
        raise SumikaError(
            "key_ended",
            f"Key {name} is revoked or expired; it uses nothing any more.",
            f"キー {name} は失効または期限切れのため、上限は不要です。",
            status=409,
        )


def _of_ended_keys() -> ColumnElement[bool]:
    ended = or_(_k.c.revoked_at.is_not(None), _k.c.expires_at <= clock.now())
    return and_(_l.c.kind == "key", _l.c.name.in_(select(_k.c.id).where(ended)))


def _forget(connection: Connection, subject: Subject) -> bool:
    return connection.execute(delete(_l).where(_l.c.kind == subject[0], _l.c.name == subject[1])).rowcount > 0


def _shown(subject: Subject) -> str:
    return f"{subject[0]}:{subject[1]}"


def _check(changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        if name == "priority":
            right = value is None or value in get_args(Priority)
        else:
            right = value is None or (type(value) is int and 1 <= value <= _MOST.get(name, 0))
        if not right:
            known = ", ".join([*(f"{n} 1-{most:,}" for n, most in _MOST.items()), "priority interactive|batch"])
            raise SumikaError(
                "bad_limit",
                f"'{quoted(str(value))}' can't be set as {quoted(name)}. What can be set: {known}.",
                f"{quoted(name)} に「{quoted(str(value))}」は設定できません。設定できる値: {known}。",
            )
