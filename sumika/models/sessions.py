"""Sessions of the console: begun by signing in at an issuer, held by the browser as a random id, kept here as its hash."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, delete, insert, or_, select, update

from sumika.models import audit, clock, schema
from sumika.models.audit import Action
from sumika.models.errors import not_found
from sumika.models.principals import Principal, Role

# Unused this long, and since it began (OWASP's session guidance; hostile.md keeps the figures).
IDLE = timedelta(minutes=30)
LONGEST = timedelta(hours=12)
# A session that is used writes no more often than this.
_TOUCH = timedelta(minutes=1)
_LONGEST_NAME = 128
# Of one principal: the browsers of one person. A further one ends the one that was used least lately.
MOST = 8
# Of the hash, as many figures as name a session: what opens one can't be found from them.
_ID = 16
_s = schema.sessions


@dataclass(frozen=True, slots=True)
class Session:
    """One that is not over; `id` names it and opens nothing."""

    id: str
    principal: str
    name: str
    role: Role
    team: str | None
    began_at: str
    seen_at: str

    def shown(self) -> dict[str, str | None]:
        return asdict(self)


def begin(connection: Connection, principal: Principal) -> str:
    """The new session's secret: 256 random bits, base64url. Sessions that are over are forgotten on the way, and of the
    principal's own those beyond `MOST`."""
    secret, now = secrets.token_urlsafe(32), datetime.now(UTC)
    idle, began = clock.spell(now - IDLE), clock.spell(now - LONGEST)
    connection.execute(delete(_s).where(or_(_s.c.seen_at < idle, _s.c.began_at < began)))
    _end_surplus(connection, principal.id)
    connection.execute(
        insert(_s).values(
            hash=hashed(secret), principal=principal.id, name=principal.name[:_LONGEST_NAME], role=principal.role,
            team=principal.team, began_at=clock.spell(now), seen_at=clock.spell(now),
        )
    )  # fmt: skip
    audit.append(connection, Action.SESSION_BEGIN, principal.id, details={"role": principal.role, "team": principal.team})
    return secret


def _end_surplus(connection: Connection, principal_id: str) -> None:
    """Leave place for one more."""
    own = select(_s.c.hash).where(_s.c.principal == principal_id).order_by(_s.c.seen_at.desc(), _s.c.hash)
    surplus = list(connection.scalars(own))[MOST - 1 :]
    if surplus:
        connection.execute(delete(_s).where(_s.c.hash.in_(surplus)))
        audit.append(connection, Action.SESSION_END, principal_id, reason="too_many", details={"sessions": len(surplus)})


def find(connection: Connection, secret: str) -> tuple[Principal, bool] | None:
    """Who holds the session, and whether it is time to `touch` it; None where it is unknown or over."""
    row = connection.execute(select(_s).where(_s.c.hash == hashed(secret))).one_or_none()
    if row is None:
        return None
    now, began, seen = datetime.now(UTC), clock.parse(row.began_at), clock.parse(row.seen_at)
    if now - began > LONGEST or now - seen > IDLE:
        return None
    return Principal(row.principal, row.name, row.role, row.team), now - seen > _TOUCH


def touch(connection: Connection, secret: str) -> None:
    connection.execute(update(_s).where(_s.c.hash == hashed(secret)).values(seen_at=clock.now()))


def end(connection: Connection, secret: str) -> None:
    """Forget a session; one that is not there is no error."""
    gone = connection.execute(delete(_s).where(_s.c.hash == hashed(secret)).returning(_s.c.principal)).scalar_one_or_none()
    if gone is not None:
        audit.append(connection, Action.SESSION_END, gone)


def page(connection: Connection, *, after: str = "", limit: int) -> list[Session]:
    """Sessions that are not over, by id, from the first one behind `after`."""
    now = datetime.now(UTC)
    living = _s.c.seen_at >= clock.spell(now - IDLE), _s.c.began_at >= clock.spell(now - LONGEST)
    behind = f"{after}g" if after else ""  # no figure of a hash comes after g
    query = select(_s).where(*living, _s.c.hash > behind).order_by(_s.c.hash).limit(limit)
    return [
        Session(row.hash[:_ID], row.principal, row.name, row.role, row.team, row.began_at, row.seen_at)
        for row in connection.execute(query)
    ]


def end_named(connection: Connection, session_id: str) -> None:
    """End the session that `page` names so, whoever holds it.

    Raises:
        SumikaError: `not_found`.
    """
    ended = None
    if len(session_id) == _ID:
        own = _s.c.hash.startswith(session_id, autoescape=True)
        ended = connection.execute(delete(_s).where(own).returning(_s.c.principal)).scalar_one_or_none()
    if ended is None:
        raise not_found(
            "session", "セッション", session_id, "It may have ended meanwhile.", "すでに終了している可能性があります。"
        )  # fmt: skip
    audit.append(connection, Action.SESSION_END, ended)


def named(secret: str) -> str:
    """The id of the session that `secret` opens."""
    return hashed(secret)[:_ID]


def hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
