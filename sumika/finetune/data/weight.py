"""How often each row of a source is seen in an epoch."""

from __future__ import annotations

import math
import random


def times(rows: int, weight: float, seed: str) -> list[int]:
    """For each row how often it is seen: floor(weight), and once more for a sample of round(rows × the rest).

    The sample follows from `seed` alone, so the same job sees the same rows.
    """
    whole = math.floor(weight)
    seen = [whole] * rows
    for index in random.Random(seed).sample(range(rows), round(rows * (weight - whole))):
        seen[index] += 1
    return seen
