"""When keys were last used: noted in memory, written in batches, off the requests' path."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime

from sumika.models import clock, keys
from sumika.models.actor import SYSTEM
from sumika.models.errors import SumikaError
from sumika.models.outage_log import OutageLog
from sumika.models.store import Store

log = logging.getLogger(__name__)

FLUSH_S = 10.0


class LastUsed:
    """The uses of one gateway worker. What is not written when it is killed is lost: at most `FLUSH_S` of them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._uses: dict[str, float] = {}
        self._outage = OutageLog(log, "when keys were last used can't be written")

    def note(self, key_id: str) -> None:
        self._uses[key_id] = time.time()

    async def run(self) -> None:
        """Write every `FLUSH_S`, until cancelled; then what is left."""
        try:
            while True:
                await asyncio.sleep(FLUSH_S)
                taken, self._uses = self._uses, {}
                if not await asyncio.to_thread(self._write, taken):
                    self._uses = taken | self._uses
        finally:
            self._write(self._uses)

    def _write(self, uses: dict[str, float]) -> bool:
        if not uses:
            return True
        moments = {key: clock.spell(datetime.fromtimestamp(at, UTC)) for key, at in uses.items()}
        try:
            with self._store.write(quiet=True, by=SYSTEM) as connection:
                keys.note_uses(connection, moments)
        except SumikaError as error:
            self._outage.failed(error)
            return False
        self._outage.worked()
        return True
