"""How many rows make an optimiser step, and how many of them go through the model at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Fits = Callable[[int, bool], bool]


@dataclass(frozen=True, slots=True)
class Batching:
    """`rows_per_step` = `micro_rows` x `accumulation` x GPUs. `micro_rows`: rows at once on one GPU."""

    rows_per_step: int
    micro_rows: int
    accumulation: int
    gradient_checkpointing: bool = False


def plan(lengths: Sequence[int], batch_tokens: int, fits: Fits | None = None, gpus: int = 1) -> Batching:
    """Rows of `batch_tokens` in the mean; as many of them at once as `fits(micro_rows, gradient_checkpointing)` allows.

    A step's rows follow from the data and the config alone, so that a job learns the same on every machine; memory decides
    only into how many equal parts they are taken. Checkpointing, which computes each layer twice, is turned on only where not
    even one row fits without. `lengths`: tokens by row, not empty. Where nothing fits, the smallest is planned, and it is for
    the caller to refuse it. With `gpus`, rows are rounded to a multiple of them.
    """
    fits = fits or (lambda micro, checkpointing: True)  # noqa: ARG005
    each = max(1, round(batch_tokens * len(lengths) / sum(lengths) / gpus))
    divisors = [n for n in range(each, 0, -1) if each % n == 0]
    for checkpointing in (False, True):
        for micro in divisors:
            if fits(micro, checkpointing):
                return Batching(each * gpus, micro, each // micro, checkpointing)
    return Batching(each * gpus, 1, each, gradient_checkpointing=True)
