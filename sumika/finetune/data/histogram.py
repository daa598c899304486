"""Counts over equal bins, for a plot and for JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_BINS = 24


@dataclass(frozen=True, slots=True)
class Histogram:
    """`counts[i]` values lie in [edges[i], edges[i + 1]); the last edge is above the largest."""

    edges: list[int]
    counts: list[int]

    @classmethod
    def of(cls, values: Sequence[int]) -> Histogram:
        if not values:
            return cls([0], [])
        low, high = min(values), max(values) + 1
        width = max(math.ceil((high - low) / _BINS), 1)
        bins = math.ceil((high - low) / width)
        counts = [0] * bins
        for value in values:
            counts[(value - low) // width] += 1
        return cls([low + width * n for n in range(bins + 1)], counts)


def quantile(ordered: Sequence[int], share: float) -> int:
    """The value below which `share` of the ordered ones lie."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0
