"""Requests that took an engine with them, twice: they are asked of no engine any more.

An engine that dies takes along all that it was working on, and which of them killed it can't be seen. What was there both times, to the
byte, most likely did: a client that sends it again would end the engine for everybody, again and again. Whoever was there by chance
twice is refused wrongly for a while, which is why both memory and sentence are short. Each gateway worker remembers for itself.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from sumika.models.errors import SumikaError

log = logging.getLogger(__name__)

_DEATHS = 2
_SUSPECT_S = 600.0
_QUARANTINE_S = 3600.0
_MOST = 10_000


@dataclass(slots=True)
class _Suspect:
    deaths: int
    until: float


class Quarantine:
    """`clock`: seconds that only go forward."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._suspects: dict[bytes, _Suspect] = {}

    def check(self, body: bytes) -> None:
        """Raises SumikaError `request_quarantined` (422) for a request that was there when two engines died. Costs nothing while none has died."""
        if not self._suspects:
            return
        suspect = self._suspects.get(_fingerprint(body))
        if suspect is None or suspect.deaths < _DEATHS or (left := suspect.until - self._clock()) <= 0:
            return
        minutes = max(1, round(left / 60))
        raise SumikaError(
            "request_quarantined",
            f"The engine stopped twice while it worked on this very request, so it is not tried again for {minutes} minutes. Change the request, and tell your administrator its X-Request-Id.",
            f"このリクエストの処理中にエンジンが2回停止したため、{minutes} 分間は実行しません。内容を変えて送るか、X-Request-Id を管理者に伝えてください。",
            status=422,
        )  # fmt: skip

    def died(self, body: bytes, request_id: str) -> None:
        """An engine died while it worked on `body`."""
        now = self._clock()
        self._suspects = {name: one for name, one in self._suspects.items() if one.until > now}
        name = _fingerprint(body)
        suspect = self._suspects.setdefault(name, _Suspect(0, 0))
        suspect.deaths += 1
        if suspect.deaths < _DEATHS:
            suspect.until = now + _SUSPECT_S
        else:
            suspect.until = now + _QUARANTINE_S
            log.error(
                "request %s: an engine died while it worked on it, for the second time; it is not tried again for an hour",
                request_id,
            )
        if len(self._suspects) > _MOST:
            del self._suspects[min(self._suspects, key=lambda one: self._suspects[one].until)]


def _fingerprint(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()
