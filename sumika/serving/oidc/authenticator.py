"""Bearer tokens that are access tokens of an issuer in the settings."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from sumika.models.errors import SumikaError
from sumika.models.principals import Principal
from sumika.serving.oidc import people, tokens
from sumika.serving.oidc.provider import Provider
from sumika.serving.oidc.tokens import Refused

log = logging.getLogger(__name__)

# A checked token is believed this long without being checked again, and never past its end.
_BELIEVED_S = 60.0
_MOST_BELIEVED = 4096
# How the header of any JWT begins: `{"` in base64url.
_JWT = "eyJ"


class _Unplaced(Exception):
    """A token is right in all, and its holder is nobody here."""

    def __init__(self, error: SumikaError) -> None:
        super().__init__(error.code)
        self.error = error


class TokenAuthenticator:
    """`teams`: the ids of those that are there, by name. Checks each token whole; what was checked is found again by the SHA-256 of the whole token, never by a part of it."""

    def __init__(self, providers: Sequence[Provider], teams: Callable[[], Mapping[str, str]] = dict) -> None:
        self._teams = teams
        self._providers = {provider.settings.issuer: provider for provider in providers}
        self._believed: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()
        # What those are told whose token is good and who are nobody here, by the token's hash.
        self._unplaced: OrderedDict[bytes, SumikaError] = OrderedDict()

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
        except _Unplaced as unplaced:
            self._unplaced[digest] = unplaced.error
            while len(self._unplaced) > _MOST_BELIEVED:
                self._unplaced.popitem(last=False)
            return None
        except Refused as refused:
            log.info("an access token was refused: %s", refused)
            return None
        self._believed[digest] = (min(until, now + _BELIEVED_S), principal)
        while len(self._believed) > _MOST_BELIEVED:
            self._believed.popitem(last=False)
        return people.placed(principal, self._teams())

    def explain(self, token: str) -> SumikaError | None:
        """What to tell whoever holds a token that `identify` has just taken for nobody's: only that which its holder may know, so of a token
        that was signed by an issuer of ours, or by its size."""
        if not self._providers:
            return None
        if len(token) > tokens.LONGEST:
            return _too_long() if token.startswith(_JWT) else None
        return self._unplaced.pop(hashlib.sha256(token.encode(errors="replace")).digest(), None)

    async def _checked(self, token: str) -> tuple[float, Principal]:
        """Until when it is good (seconds of the epoch), and whose it is. Raises Refused, _Unplaced."""
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
            error = people.unplaced(provider.settings, claims)
            tell = log.warning if error.code == "groups_not_listed" else log.info
            tell("an access token of issuer %s was refused (%s): %s", provider.settings.name, error.code, error.en)
            raise _Unplaced(error)
        return claims["exp"] + provider.settings.leeway_s, principal


def _too_long() -> SumikaError:
    return SumikaError(
        "token_too_long",
        f"The access token is longer than {tokens.LONGEST:,} bytes, mostly by the groups in it. Ask your administrator to have the sign-in service list only "
        "the groups of this application (docs/access.md).",
        f"アクセストークンが上限 {tokens.LONGEST:,} バイトを超えています。多くはグループの数が原因です。このアプリケーションのグループだけを入れるよう、"
        "管理者に依頼してください(docs/access.md)。",
        status=401,
    )  # fmt: skip
