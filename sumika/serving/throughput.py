"""How fast each base answers, learnt from whole answers; what an answer that was cut off is charged by.

vLLM 0.32 tells nothing of a request that it aborts, so the gateway needs a figure of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

# Tokens a second of one choice, while no whole answer has told better: more than most bases of the catalog make on one GPU.
DEFAULT_RATE = 100.0
# Shorter answers tell more of the prompt than of the speed.
_MIN_TOKENS = 16
_MIN_SECONDS = 0.02
# How much one answer moves the mean.
_WEIGHT = 0.1


@dataclass(slots=True)
class _Speed:
    rate: float = DEFAULT_RATE
    per_event: float = 1.0
    known: bool = False


class Throughput:
    """By base, as this gateway worker saw it."""

    def __init__(self) -> None:
        self._speeds: dict[int, _Speed] = {}

    def learn(self, base_id: int, tokens: int, choices: int, seconds: float, events: int) -> None:
        """Of a whole answer. `seconds`: from the request to the engine until its end; `events`: of a stream, else 0."""
        each = tokens / max(1, choices)
        if each < _MIN_TOKENS or seconds < _MIN_SECONDS:
            return
        speed = self._speeds.setdefault(base_id, _Speed())
        weight = _WEIGHT if speed.known else 1.0
        speed.rate += weight * (each / seconds - speed.rate)
        speed.known = True
        if events:
            speed.per_event += _WEIGHT * (max(1.0, tokens / events) - speed.per_event)

    def tokens(self, base_id: int, seconds: float, choices: int) -> int:
        """What an engine of this base makes of so many choices in that time."""
        rate = self._speeds[base_id].rate if base_id in self._speeds else DEFAULT_RATE
        return round(max(0.0, seconds) * rate * choices)

    def per_event(self, base_id: int) -> float:
        """Tokens that an event of a stream stands for: more than one with speculative decoding, or where an engine's server is busy."""
        return self._speeds[base_id].per_event if base_id in self._speeds else 1.0
