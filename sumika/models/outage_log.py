"""What a loop logs while the store is away: when that begins, once a minute, and when it ends."""

from __future__ import annotations

import logging
import time

from sumika.models.errors import SumikaError

_AGAIN_S = 60.0


class OutageLog:
    """One loop's. `what`: the work that fails meanwhile."""

    def __init__(self, log: logging.Logger, what: str) -> None:
        self._log = log
        self._what = what
        self._began: float | None = None
        self._logged = 0.0

    def failed(self, error: SumikaError) -> None:
        now = time.monotonic()
        if self._began is None or now - self._logged >= _AGAIN_S:
            self._log.error("%s: %s", self._what, error.en)
            self._logged = now
        if self._began is None:
            self._began = now

    def worked(self) -> None:
        if self._began is not None:
            self._log.info("%s: works again after %.0f s", self._what, time.monotonic() - self._began)
            self._began = None
