"""The keys that a worker knows, by the hash of their secret: one look-up, in the same time whatever comes of it."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from sumika.models import keys
from sumika.models.keys import Key
from sumika.models.principals import Principal
from sumika.serving.last_used import LastUsed

_FOREVER = float("inf")


@dataclass(frozen=True, slots=True)
class KnownKey:
    """One secret: its SHA-256, until when it is good (seconds of the epoch), and whose it is."""

    hash: bytes
    until: float
    principal: Principal | None


KnownKeys = Mapping[bytes, KnownKey]
_NOBODY = KnownKey(bytes(32), 0.0, None)


def known(found: Iterable[Key], moment: datetime) -> KnownKeys:
    """The secrets that are good at `moment`; those that are not are not told apart from those that never were."""
    result = {}
    for key in found:
        for hash, until in key.secrets_at(moment).items():
            digest = bytes.fromhex(hash)
            result[digest] = KnownKey(digest, _FOREVER if until is None else until.timestamp(), key.principal)
    return result


def first_end(known: KnownKeys) -> float:
    """When the first of them ends (seconds of the epoch). Those that ended are then left out, as revoked ones are, so that
    they are told apart from unknown ones by nothing."""
    return min((key.until for key in known.values()), default=_FOREVER)


def identify(secret: str, among: KnownKeys, now: float) -> Principal | None:
    """Whose `secret` is at `now` (seconds of the epoch). Every step is taken for every secret: no short cut tells by its
    time why one is refused."""
    digest = keys.digest(secret)
    key = among.get(digest, _NOBODY)
    good = hmac.compare_digest(key.hash, digest) & (key.until > now) & keys.well_formed(secret)
    return key.principal if good else None


class KeyAuthenticator:
    """Bearer tokens that are keys of ours, among those of the current snapshot."""

    def __init__(self, current: Callable[[], KnownKeys], used: LastUsed) -> None:
        self._current = current
        self._used = used

    async def identify(self, token: str) -> Principal | None:
        principal = identify(token, self._current(), time.time())
        if principal is not None:
            self._used.note(principal.id)
        return principal
