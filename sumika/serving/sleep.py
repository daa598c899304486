"""vLLM's sleep mode: an engine gives its GPU memory to another and takes it back in a second or so.

Level 1 keeps the weights in main memory; level 2 keeps nothing and reads them from disk again. What the engine answers
is not believed: its memory is measured before and after, since `/sleep` has answered 200 and freed nothing.
"""

from __future__ import annotations

import logging
from pathlib import Path

from sumika.models.errors import SumikaError
from sumika.serving.engine_client import EngineClient
from sumika.serving.room import GIB, Room

log = logging.getLogger(__name__)

# Main memory that must be left beside the weights of a sleeper.
_MARGIN = 8 * GIB
# Of what an engine was promised, at least this must be free again.
_FREED = 0.5


class Sleeper:
    """One engine's sleep: how deep, and whether it was one."""

    def __init__(self, room: Room, engine_id: str) -> None:
        self._room = room
        self._id = engine_id
        # An engine of a supervisor before us may sleep at either level; what level 2 does to wake is right for both.
        self._level = 2

    @property
    def keeps_weights(self) -> bool:
        return self._level == 1

    async def sleep(self, client: EngineClient, folder: Path) -> None:
        """Put an idle engine to sleep.

        Raises:
            SumikaError: `sleep_failed`, also when its memory did not become free; the engine must be ended then.
        """
        weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        self._level = 1 if self._room.host_free() > weights + _MARGIN else 2
        before, promised = self._room.measured_free(self._id), self._room.promised(self._id)
        await client.sleep(self._level)
        freed = self._room.measured_free(self._id) - before
        if freed < _FREED * promised:
            raise SumikaError(
                "sleep_failed",
                f"The engine said it sleeps, but {max(0, freed) / GIB:.1f} of {promised / GIB:.1f} GiB became free. It is restarted.",
                f"エンジンはスリープしたと応答しましたが、解放されたメモリーは {promised / GIB:.1f} GiB 中 {max(0, freed) / GIB:.1f} GiB です。再起動します。",
                status=503,
                retry_after=30,
            )
        self._room.keep(self._id, max(0, promised - freed))
        log.info("asleep at level %d, %.1f GiB freed", self._level, freed / GIB)

    async def wake(self, client: EngineClient) -> None:
        """Raises SumikaError `sleep_failed`."""
        await client.wake(self._level)
