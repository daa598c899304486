"""What a browser holds of a sign-in, however somebody signed in: its cookie, and whether it still stands for them."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Connection
from starlette.responses import Response

from sumika.models import keys, sessions
from sumika.models.actor import Actor
from sumika.models.errors import SumikaError
from sumika.models.oidc_settings import OidcSettings
from sumika.models.principals import Principal
from sumika.models.store import Store
from sumika.serving.gate import SESSION_COOKIE
from sumika.serving.oidc import people


def begin(store: Store, principal: Principal, before: str | None) -> str:
    """A new session's secret; the one that the browser had ends."""
    with store.write(by=Actor(principal.id, principal.role, principal.source)) as connection:
        if before is not None:
            sessions.end(connection, before)
        return sessions.begin(connection, principal)


def end(store: Store, held: str, source: str) -> None:
    with store.read() as connection:
        found = sessions.find(connection, held)
    if found is not None:
        with store.write(by=Actor(found[0].id, found[0].role, source)) as connection:
            sessions.end(connection, held)


def find(settings: OidcSettings, store: Store, secret: str) -> Principal | None:
    """Who holds a session, where what they signed in with would still let them in; its time of last use moves on."""
    with store.read() as connection:
        found = sessions.find(connection, secret)
        now = None if found is None else _still(settings, connection, found[0])
    if found is None or now is None:
        return None
    if found[1]:
        with store.write(quiet=True) as connection:
            sessions.touch(connection, secret)
    return now


def keep(response: Response, name: str, value: str, seconds: int) -> None:
    """`__Host-`: Secure, for this host alone, on every path. Lax: an issuer's redirect back to us must bring it."""
    response.set_cookie(name, value, max_age=seconds, path="/", secure=True, httponly=True, samesite="lax")


def forget(response: Response, name: str = SESSION_COOKIE) -> None:
    response.delete_cookie(name, path="/", secure=True, httponly=True, samesite="lax")


def _still(settings: OidcSettings, connection: Connection, principal: Principal) -> Principal | None:
    """A key reaches as far as it does now, and no further for being held by a browser; one that ended opens nothing."""
    if principal.id.startswith("oidc:"):
        return principal if people.still_granted(settings, principal) else None
    try:
        key = keys.get(connection, principal.id)
    except SumikaError:
        return None
    return key.principal if key.valid_at(datetime.now(UTC)) else None
