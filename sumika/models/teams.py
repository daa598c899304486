"""Teams: what keys and people belong to, by a name that limits and reports are kept under."""

from __future__ import annotations

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


def create(connection: Connection, name: str, title: str = "") -> Team:
    """Raises SumikaError `bad_name`; `bad_title`; `team_exists` (409)."""
    team = Team(check_name(name), _checked(title or name), clock.now())
    if find(connection, name) is not None:
        raise SumikaError(
            "team_exists", f"There is a team '{name}' already.", f"チーム「{name}」はすでにあります。", status=409, param="name"
        )
    connection.execute(insert(_t).values(name=team.name, title=team.title, created_at=team.created_at))
    audit.append(connection, Action.TEAM_CREATE, name, details={"title": team.title})
    return team


def list_all(connection: Connection) -> list[Team]:
    return [Team(*row) for row in connection.execute(select(_t).order_by(_t.c.name))]


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
    """Take away a team that no living key belongs to; keys that have ended go on naming it.

    Raises:
        SumikaError: `not_found`; `in_use` (409).
    """
    team = get(connection, name, lock=True)
    living = or_(_k.c.expires_at.is_(None), _k.c.expires_at > clock.now())
    used = list(connection.scalars(select(_k.c.id).where(_k.c.team == name, _k.c.revoked_at.is_(None), living)))
    if used:
        raise SumikaError(
            "in_use",
            f"Team '{name}' still has keys ({', '.join(used[:5])}{' …' if len(used) > 5 else ''}). Revoke them first.",
            f"チーム「{name}」には有効なキーがあります({', '.join(used[:5])}{' …' if len(used) > 5 else ''})。先に失効させてください。",
            status=409,
        )
    connection.execute(delete(_t).where(_t.c.name == name))
    audit.append(connection, Action.TEAM_REMOVE, name)
    return team


def _checked(title: str) -> str:
    if not title.isprintable() or len(title) > _LONGEST_TITLE:
        raise SumikaError(
            "bad_title",
            f"'{quoted(title, 40)}' can't be a team's title. Use 1 to {_LONGEST_TITLE} printable characters.",
            f"「{quoted(title, 40)}」はチームの表示名に使えません。制御文字を除く1〜{_LONGEST_TITLE}文字にしてください。",
            param="title",
        )
    return title
