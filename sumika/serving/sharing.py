"""Several bases on one card: who sleeps so that another can wake (vLLM's sleep mode, GPU only)."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from sumika.models.registry import Version
from sumika.serving.crew import Crew
from sumika.serving.keeper import EngineContext, Keeper

log = logging.getLogger(__name__)

# Whoever was woken gets this long before it may be sent to sleep again: two busy bases would else only take turns waking.
_AWAKE_AT_LEAST_S = 3.0


class Sharing:
    """Decides who sleeps; keepers do it."""

    def __init__(self, context: EngineContext, crew: Crew) -> None:
        self._context = context
        self._crew = crew
        self._on = context.settings.sleep and context.device == "cuda"
        self._awake_since: dict[str, float] = {}

    def wake_the_wanted(self, waiting: Mapping[int, int], moving_to: Collection[int]) -> None:
        """Sleepers that requests wait for, or that a move leads to, are woken as soon as there is room; the one that
        most requests wait for first."""
        now = time.monotonic()
        self._awake_since = {k.id: self._awake_since.get(k.id, now) for k in self._crew if k.ready}
        asleep = [k for k in self._crew if k.state == "asleep" and (k.base.id in moving_to or waiting.get(k.base.id))]
        for keeper in sorted(asleep, key=lambda k: waiting.get(k.base.id, 0), reverse=True):
            if self._context.room.lacking(keeper.base, keeper.folder) is None:
                keeper.aim = "serve"
                keeper.wake()
            else:
                self.make_room(keeper.base, keeper.folder)
            return  # one at a time: what it takes is known only afterwards

    def make_room(self, base: Version, folder: Path) -> bool:
        """Send engines to sleep until `base` would fit; whether that is under way (or will be, in a moment)."""
        if not self._on:
            return False
        falling = [k.id for k in self._crew if k.aim == "sleep" and k.state != "asleep"]
        awake = sorted(self._candidates(base), key=lambda k: self._awake_since.get(k.id, 0))
        for count in range(len(awake) + 1):
            chosen = awake[:count]
            if self._context.room.lacking(base, folder, without=[*falling, *(k.id for k in chosen)]) is None:
                for keeper in chosen:
                    if time.monotonic() - self._awake_since.get(keeper.id, 0) >= _AWAKE_AT_LEAST_S:
                        log.info("engine %s (%s) goes to sleep, so that %s can wake", keeper.id, keeper.base.ref, base.ref)
                        keeper.aim = "sleep"
                        keeper.wake()
                return True
        return False

    def _candidates(self, base: Version) -> list[Keeper]:
        return [k for k in self._crew if k.ready and k.aim == "serve" and k.base.id != base.id]
