"""How long to wait before something that ended is started again: longer each time, until it has lived for a while."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Backoff:
    """`steady_s`: what lived this long was not crashing in a loop, and is started again after the first, short pause."""

    first_s: float
    longest_s: float
    steady_s: float
    restarts: int = 0

    def ended(self, lived_s: float) -> float:
        """Seconds to wait, after it lived that long."""
        self.restarts = 1 if lived_s > self.steady_s else self.restarts + 1
        return min(self.longest_s, self.first_s * 2.0 ** min(self.restarts - 1, 30))
