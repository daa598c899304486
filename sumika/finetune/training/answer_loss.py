"""The loss on trained positions only.

With a vocabulary of 262,144, logits are most of a CPU step. Rows are padded on the left, so that answers, which stand
last, line up and the model is asked (`logits_to_keep`) for the few columns that hold one. The loss is the mean
cross-entropy of the trained tokens, as TRL's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from sumika.finetune.chat import IGNORED


@dataclass(frozen=True, slots=True)
class LeftPadded:
    """Collates rows of `input_ids` and `labels` into tensors of shape [rows, longest row], padded on the left."""

    pad_token_id: int

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        width = max(len(row["input_ids"]) for row in rows)
        mask = torch.tensor([[0] * (width - len(row["input_ids"])) + [1] * len(row["input_ids"]) for row in rows])
        return {
            "input_ids": self._filled([row["input_ids"] for row in rows], width, self.pad_token_id),
            "labels": self._filled([row["labels"] for row in rows], width, IGNORED),
            "attention_mask": mask,
            "position_ids": (mask.cumsum(-1) - 1).clamp(min=0),
        }

    @staticmethod
    def _filled(lists: list[list[int]], width: int, fill: int) -> torch.Tensor:
        return torch.tensor([[fill] * (width - len(one)) + one for one in lists])


def summed(model: Any, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The summed cross-entropy (nats) of a batch's trained tokens, and how many they are."""
    labels = inputs["labels"]
    columns = (labels != IGNORED).any(dim=0).nonzero()[:, 0]
    others = {name: value for name, value in inputs.items() if name != "labels"}
    # The logits at a position are about the token after it.
    logits = model(**others, use_cache=False, logits_to_keep=columns - 1).logits
    targets = labels[:, columns].flatten()
    total = cross_entropy(logits.flatten(0, 1).float(), targets, ignore_index=IGNORED, reduction="sum")
    return total, (targets != IGNORED).sum()
