"""How many rows make an optimiser step, and how many of them go through the model at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Batching:
    rows_per_step: int
    micro_rows: int
    accumulation: int
    gradient_checkpointing: bool = False


def plan(lengths: Sequence[int], batch_tokens: int) -> Batching:
    rows = max(1, round(batch_tokens / (sum(lengths) / len(lengths))))
    return Batching(rows, rows, 1)
