"""Bearer tokens that are access tokens of an issuer in the settings."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from sumika.models.principals import Principal
from sumika.serving.oidc import people, tokens
from sumika.serving.oidc.provider import Provider
from sumika.serving.oidc.tokens import Refused

log = logging.getLogger(__name__)

# A checked token is believed this long without being checked again, and never past its end.
_BELIEVED_S = 60.0
_MOST_BELIEVED = 4096


class TokenAuthenticator:
    """`teams`: the ids of those that are there, by name. Checks each token whole; what was checked is found again by the SHA-256 of the whole token, never by a part of it."""

    def __init__(self, providers: Sequence[Provider], teams: Callable[[], Mapping[str, str]] = dict) -> None:
        self._teams = teams
        self._providers = {provider.settings.issuer: provider for provider in providers}
        self._believed: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()

    async def identify(self, token: str) -> Principal | None:
        """Raises SumikaError `issuer_unreachable` (503), where the keys of the issuer it names are not known."""
        if not self._providers or len(token) > tokens.LONGEST:
            return None
        digest, now = hashlib.sha256(token.encode(errors="replace")).digest(), time.time()
        believed = self._believed.get(digest)
        if believed is not None and now < believed[0]:
            return people.placed(believed[1], self._teams())
        try:
            until, principal = await self._checked(token)
        except Refused as refused:
            log.info("an access token was refused: %s", refused)
            return None
        self._believed[digest] = (min(until, now + _BELIEVED_S), principal)
        while len(self._believed) > _MOST_BELIEVED:
            self._believed.popitem(last=False)
        return people.placed(principal, self._teams())

    async def _checked(self, token: str) -> tuple[float, Principal]:
        """Until when it is good (seconds of the epoch), and whose it is. Raises Refused."""
        unverified = tokens.read(token)
        provider = self._providers.get(unverified.issuer)
        if provider is None or unverified.algorithm not in provider.settings.algorithms:
            raise Refused("its issuer or algorithm is not in the settings")
        key = await provider.key(unverified.kid, unverified.algorithm)
        if key is None:
            raise Refused("its issuer has no such key")
        claims = tokens.check_access(unverified, key, provider.settings)
        principal = people.principal(provider.settings, claims)
        if principal is None:
            raise Refused("no grant in the settings matches")
        return claims["exp"] + provider.settings.leeway_s, principal
