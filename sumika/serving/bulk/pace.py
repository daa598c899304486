"""How many requests of one batch may be under way: fewer each time there is no room, more as answers come."""

from __future__ import annotations

import time
from collections.abc import Callable

_LONGEST_PAUSE_S = 60.0


class Pace:
    """At most `ceiling` at once. While models, limits or queues have no room, one is tried at growing intervals."""

    def __init__(self, ceiling: int, now: Callable[[], float] = time.monotonic) -> None:
        self._ceiling = ceiling
        self._now = now
        self._pause_s = 1.0
        self._until = 0.0
        self._most = ceiling

    @property
    def most(self) -> int:
        """How many may be under way now; 0 during a pause."""
        return 0 if self.pause_s > 0 else self._most

    @property
    def pause_s(self) -> float:
        return max(0.0, self._until - self._now())

    def no_room(self, retry_after_s: float) -> None:
        """One was refused for want of room. Those that were under way with it tell nothing new."""
        if self.pause_s > 0:
            return
        self._most = max(1, self._most // 2)
        self._until = self._now() + min(max(self._pause_s, retry_after_s), _LONGEST_PAUSE_S)
        self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)

    def went_well(self) -> None:
        self._most = min(self._ceiling, self._most + 1)
        self._pause_s = 1.0
