"""A minute that slides, from two counters: what was used in this minute, and what of the last one still counts.

The same approximation as `limits`' own sliding window counter; but it can't give back what was reserved and not used.
"""

from __future__ import annotations

import math

SECONDS = 60


def minute(now: float) -> int:
    """The number of the minute that `now` (seconds of the epoch) lies in."""
    return int(now // SECONDS)


def used(previous: int, current: int, now: float) -> int:
    """Of the last 60 seconds, as if the last minute's use had been spread evenly."""
    return max(0, math.floor(previous * (1 - now % SECONDS / SECONDS)) + current)


def wait_s(limit: int, cost: int, previous: int, current: int, now: float) -> float:
    """Seconds until `cost` (at most `limit`) fits if nothing else comes."""
    into = now % SECONDS
    room = limit - cost - current
    if room >= 0 and previous > 0:
        return max(0.0, SECONDS * (1 - room / previous) - into)
    # Not in this minute; in the next one `current` fades in its turn.
    fading = max(0.0, 1 - (limit - cost) / current) if current > 0 else 0.0
    return SECONDS - into + SECONDS * fading


def reset_s(previous: int, current: int, now: float) -> float:
    """Seconds until nothing that was used counts any more."""
    rest = SECONDS - now % SECONDS
    return rest + SECONDS if current > 0 else rest if previous > 0 else 0.0
