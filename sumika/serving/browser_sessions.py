"""What a browser holds of a sign-in, however somebody signed in: its cookie, and whether it still stands for them."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection
from starlette.responses import Response

from sumika.models import keys, sessions, teams
from sumika.models.actor import Actor
from sumika.models.errors import SumikaError
from sumika.models.oidc_settings import OidcSettings
from sumika.models.principals import Principal
from sumika.models.store import Store
from sumika.serving.gate import SESSION_COOKIE
from sumika.serving.oidc import people
from sumika.serving.oidc.ticket import login_key


class BrowserSessions:
    """Sessions in `store`, by the cookies that open them: a random secret and our signature of it (with the key in `path`), so
    that a cookie that somebody made up costs no look into the database."""

    def __init__(self, settings: OidcSettings, store: Store, path: Path) -> None:
        self._settings = settings
        self._store = store
        self._key = hmac.digest(login_key(path), b"sessions", hashlib.sha256)

    def begin(self, principal: Principal, before: str | None) -> str:
        """A new session's cookie; the one that the browser had ends."""
        with self._store.write(by=Actor(principal.id, principal.role, principal.source)) as connection:
            if before is not None:
                sessions.end(connection, secret_of(before))
            return self._signed(sessions.begin(connection, principal))

    def end(self, cookie: str, source: str) -> None:
        if not self._is_ours(cookie):
            return
        with self._store.read() as connection:
            found = sessions.find(connection, secret_of(cookie))
        if found is not None:
            with self._store.write(by=Actor(found[0].id, found[0].role, source)) as connection:
                sessions.end(connection, secret_of(cookie))

    async def identify(self, token: str) -> Principal | None:
        """Looked up in the store: rare enough, and signing out then counts at once everywhere."""
        return await asyncio.to_thread(self._find, secret_of(token)) if self._is_ours(token) else None

    def _find(self, secret: str) -> Principal | None:
        """Who holds a session, where what they signed in with would still let them in; its time of last use moves on."""
        with self._store.read() as connection:
            found = sessions.find(connection, secret)
            now = None if found is None else _still(self._settings, connection, found[0])
        if found is None or now is None:
            return None
        if found[1]:
            with self._store.write(quiet=True) as connection:
                sessions.touch(connection, secret)
        return now

    def _signed(self, secret: str) -> str:
        signature = base64.urlsafe_b64encode(hmac.digest(self._key, secret.encode(), hashlib.sha256)).rstrip(b"=")
        return f"{secret}.{signature.decode()}"

    def _is_ours(self, cookie: str) -> bool:
        return cookie.isascii() and hmac.compare_digest(self._signed(secret_of(cookie)), cookie)


def secret_of(cookie: str) -> str:
    """The part that opens a session."""
    return cookie.partition(".")[0]


def keep(response: Response, name: str, value: str, seconds: int) -> None:
    """`__Host-`: Secure, for this host alone, on every path. Lax: an issuer's redirect back to us must bring it."""
    response.set_cookie(name, value, max_age=seconds, path="/", secure=True, httponly=True, samesite="lax")


def forget(response: Response, name: str = SESSION_COOKIE) -> None:
    response.delete_cookie(name, path="/", secure=True, httponly=True, samesite="lax")


def _still(settings: OidcSettings, connection: Connection, principal: Principal) -> Principal | None:
    """A key reaches as far as it does now, and no further for being held by a browser; one that ended opens nothing."""
    if principal.id.startswith("oidc:"):
        return people.placed(principal, teams.ids(connection)) if people.still_granted(settings, principal) else None
    try:
        key = keys.get(connection, principal.id)
    except SumikaError:
        return None
    return key.principal if key.valid_at(datetime.now(UTC)) else None
