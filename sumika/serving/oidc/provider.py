"""One issuer: its discovery document and its keys, kept and fetched again when they are old or one is missing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from sumika.models.oidc_settings import IssuerSettings, check_url
from sumika.serving.oidc import fetching
from sumika.serving.oidc.fetching import Outside, Unreachable

log = logging.getLogger(__name__)

# Seconds. Keys are asked for again when they are `_FRESH_S` old, or when a token names one that is not there, but not
# within `_PAUSE_S` of the last time, so that made-up names of keys are no way to make us call the issuer.
_FRESH_S = 3600.0
_PAUSE_S = 60.0
_PAUSE_AFTER_FAILURE_S = 10.0
# An issuer that is away for longer than this is no longer believed to have the keys it had.
_OLDEST_S = 24 * 3600.0
_MOST_KEYS = 100

_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}

Keys = Mapping[tuple[str, str], PyJWK]


@dataclass(frozen=True, slots=True)
class Known:
    """What the issuer said of itself, and when (monotonic seconds)."""

    authorization_endpoint: str
    token_endpoint: str
    keys: Keys
    at: float


class Provider:
    """Asked by all requests of a worker; one of them at a time fetches."""

    def __init__(self, settings: IssuerSettings, outside: Outside) -> None:
        self.settings = settings
        self._outside = outside
        self._known: Known | None = None
        self._next_try = 0.0
        self._lock = asyncio.Lock()

    async def key(self, kid: str, algorithm: str) -> PyJWK | None:
        """The issuer's key of this name for this algorithm.

        Raises:
            SumikaError: `issuer_unreachable` (503), where its keys are not known.
        """
        known = self._known
        if known is None or time.monotonic() - known.at > _FRESH_S or (kid, algorithm) not in known.keys:
            await self._refresh()
        return (await self.known()).keys.get((kid, algorithm))

    async def known(self) -> Known:
        """Raises SumikaError `issuer_unreachable` (503)."""
        if self._known is None:
            await self._refresh()
        if self._known is None or time.monotonic() - self._known.at > _OLDEST_S:
            raise fetching.unreachable(self.settings.name)
        return self._known

    async def redeem(self, form: Mapping[str, str], auth: aiohttp.BasicAuth | None) -> dict[str, Any]:
        """What the token endpoint gives for `form`. Raises Unreachable; SumikaError `issuer_unreachable`."""
        return await fetching.post(self._outside.session(), (await self.known()).token_endpoint, form, auth)

    async def _refresh(self) -> None:
        async with self._lock:
            if time.monotonic() < self._next_try:
                return
            try:
                self._known = await self._fetched()
                self._next_try = time.monotonic() + _PAUSE_S
            except Unreachable as error:
                self._next_try = time.monotonic() + _PAUSE_AFTER_FAILURE_S
                log.error("issuer %s: %s", self.settings.name, error)

    async def _fetched(self) -> Known:
        issuer = self.settings.issuer
        told = await fetching.get(self._outside.session(), issuer.rstrip("/") + "/.well-known/openid-configuration")
        if told.get("issuer") != issuer:
            raise Unreachable("its discovery document is of another issuer")
        where = [told.get(name) for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")]
        try:
            authorization, token, jwks = (check_url(str(url)) for url in where)
        except ValueError as error:
            raise Unreachable("its discovery document names no usable endpoints") from error
        listed = (await fetching.get(self._outside.session(), jwks)).get("keys")
        if not isinstance(listed, list) or len(listed) > _MOST_KEYS:
            raise Unreachable("its keys can't be read")
        return Known(authorization, token, usable(listed, self.settings.algorithms), time.monotonic())


def usable(listed: Iterable[Any], algorithms: Iterable[str]) -> Keys:
    """The public signing keys among a JWK set, by name and algorithm; a name that two keys have is nobody's."""
    found: dict[tuple[str, str], PyJWK] = {}
    twice = set()
    for jwk in listed:
        for algorithm in algorithms:
            key = _key(jwk, algorithm)
            if key is not None:
                name = (jwk["kid"], algorithm)
                if name in found:
                    twice.add(name)
                found[name] = key
    return {name: key for name, key in found.items() if name not in twice}


def _key(jwk: Any, algorithm: str) -> PyJWK | None:
    """None where `jwk` is none of the kind that signs with `algorithm`."""
    if not isinstance(jwk, dict) or not isinstance(jwk.get("kid"), str):
        return None
    curve = _CURVES.get(algorithm)
    fits = jwk.get("kty") == ("EC" if curve else "RSA") and jwk.get("crv") == curve and "d" not in jwk
    operations = jwk.get("key_ops", ["verify"])
    signs = jwk.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations
    if not fits or not signs or jwk.get("alg", algorithm) != algorithm:
        return None
    try:
        return PyJWK(jwk, algorithm)
    except (PyJWTError, ValueError, TypeError, KeyError):
        return None
