"""Teams: what keys and people belong to, by a name for people, limits and reports, and by an id that owns things.

A name may be given again once its team is gone; an id never is, so that a new team inherits nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, or_, select

from sumika.models import audit, clock, schema
from sumika.models.audit import Action
from sumika.models.errors import SumikaError, not_found, quoted
from sumika.models.names import check_name

_LONGEST_TITLE = 128
_t = schema.teams
_k = schema.keys


@dataclass(frozen=True, slots=True)
class Team:
    """`title` is what people call it, for example 総務部."""

    name: str
    title: str
    created_at: str
    id: str


def create(connection: Connection, name: str, title: str = "") -> Team:
    """Raises SumikaError `bad_name`; `bad_title`; `team_exists` (409)."""
    team = Team(check_name(name), _checked(title or name), clock.now(), f"team-{secrets.token_hex(8)}")
    if find(connection, name) is not None:
        raise SumikaError(
            "team_exists", f"There is a team '{name}' already.", f"チーム「{name}」はすでにあります。", status=409, param="name"
        )
    _forget_counts(connection, name)  # requests of an older team that were counted after it was gone
    connection.execute(insert(_t).values(name=team.name, title=team.title, created_at=team.created_at, id=team.id))
    audit.append(connection, Action.TEAM_CREATE, name, details={"title": team.title, "id": team.id})
    return team


def list_all(connection: Connection) -> list[Team]:
    return [Team(*row) for row in connection.execute(select(_t).order_by(_t.c.name))]


def ids(connection: Connection) -> dict[str, str]:
    """The id of each team by its name."""
    return {row.name: row.id for row in connection.execute(select(_t.c.name, _t.c.id))}


def names(connection: Connection) -> Mapping[str, str]:
    """The name of each team by its id."""
    return {id: name for name, id in ids(connection).items()}


def find(connection: Connection, name: str, *, lock: bool = False) -> Team | None:
    """With `lock`, nobody removes it before this transaction ends."""
    query = select(_t).where(_t.c.name == name)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    return Team(*row) if row else None


def get(connection: Connection, name: str, *, lock: bool = False) -> Team:
    """Raises SumikaError `not_found`."""
    team = find(connection, name, lock=lock)
    if team is None:
        raise not_found(
            "team", "チーム", name, "'sumika teams list' shows them.", "一覧は sumika teams list で確認できます。"
        )  # fmt: skip
    return team


def remove(connection: Connection, name: str) -> Team:
    """Take away a team that no living key belongs to; keys that have ended go on naming it, and what it owned is seen by
    administrators alone. Its limits, this month's counts and its people's sessions end with it.

    Raises:
        SumikaError: `not_found`; `in_use` (409).
    """
    team = get(connection, name, lock=True)
    living = or_(_k.c.expires_at.is_(None), _k.c.expires_at > clock.now())
    used = list(connection.scalars(select(_k.c.id).where(_k.c.team_id == team.id, _k.c.revoked_at.is_(None), living)))
    if used:
        raise SumikaError(
            "in_use",
            f"Team '{name}' still has keys ({', '.join(used[:5])}{' …' if len(used) > 5 else ''}). Revoke them first.",
            f"チーム「{name}」には有効なキーがあります({', '.join(used[:5])}{' …' if len(used) > 5 else ''})。先に失効させてください。",
            status=409,
        )
    connection.execute(delete(_t).where(_t.c.name == name))
    connection.execute(delete(schema.limits).where(schema.limits.c.kind == "team", schema.limits.c.name == name))
    connection.execute(delete(schema.sessions).where(schema.sessions.c.team == name))
    _forget_counts(connection, name)
    audit.append(connection, Action.TEAM_REMOVE, name, details={"id": team.id})
    return team


def folder(connection: Connection, name: str, team_id: str) -> str:
    """What a team's folder for data is called: as the team, or by its id where an older team bore the name, whose data it is not to
    read. The audit log and ended keys tell of older ones."""
    removed = select(schema.audit.c.seq).where(schema.audit.c.action == Action.TEAM_REMOVE, schema.audit.c.object == name)
    ended = select(_k.c.id).where(_k.c.team == name, _k.c.team_id != team_id)
    older = any(
        connection.scalar(query.limit(1)) is not None for query in (removed.where(schema.audit.c.outcome == "done"), ended)
    )
    return team_id if older else name


def _forget_counts(connection: Connection, name: str) -> None:
    """What budgets are held against; the requests themselves stay in the table `usage`."""
    totals = schema.usage_totals
    connection.execute(delete(totals).where(totals.c.kind == "team", totals.c.name == name))


def _checked(title: str) -> str:
    if not title.isprintable() or len(title) > _LONGEST_TITLE:
        raise SumikaError(
            "bad_title",
            f"'{quoted(title, 40)}' can't be a team's title. Use 1 to {_LONGEST_TITLE} printable characters.",
            f"「{quoted(title, 40)}」はチームの表示名に使えません。制御文字を除く1〜{_LONGEST_TITLE}文字にしてください。",
            param="title",
        )
    return title
