"""In which order rows are shown: of like length beside each other, and the same after a resume."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler


class Order(LengthGroupedSampler):  # type: ignore[misc]
    """transformers' own sampler draws from torch's global generator, so that a resumed epoch has another order than the
    one that was begun; this one's order follows from the seed and the number of the epoch alone."""

    def __init__(self, lengths: Sequence[int], rows_per_step: int, seed: int) -> None:
        super().__init__(rows_per_step, lengths=list(lengths), generator=torch.Generator())
        self._seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self.generator.manual_seed(self._seed * 1_000_003 + epoch)
