"""Sessions of the console: begun by signing in at an issuer, held by the browser as a random id, kept here as its hash."""

from __future__ import annotations

import hashlib
import secrets
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, delete, insert, or_, select, update

from sumika.models import audit, clock, schema
from sumika.models.audit import Action
from sumika.models.principals import Principal

# Unused this long, and since it began (OWASP's session guidance; hostile.md keeps the figures).
IDLE = timedelta(minutes=30)
LONGEST = timedelta(hours=12)
# A session that is used writes no more often than this.
_TOUCH = timedelta(minutes=1)
_LONGEST_NAME = 128
_s = schema.sessions


def begin(connection: Connection, principal: Principal) -> str:
    """The new session's secret: 256 random bits, base64url. Sessions that are over are forgotten on the way."""
    secret, now = secrets.token_urlsafe(32), datetime.now(UTC)
    idle, began = clock.spell(now - IDLE), clock.spell(now - LONGEST)
    connection.execute(delete(_s).where(or_(_s.c.seen_at < idle, _s.c.began_at < began)))
    connection.execute(
        insert(_s).values(
            hash=hashed(secret), principal=principal.id, name=principal.name[:_LONGEST_NAME], role=principal.role,
            team=principal.team, began_at=clock.spell(now), seen_at=clock.spell(now),
        )
    )  # fmt: skip
    audit.append(connection, Action.SESSION_BEGIN, principal.id, details={"role": principal.role, "team": principal.team})
    return secret


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


def hashed(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
