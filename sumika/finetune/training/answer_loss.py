"""The loss on trained positions only.

With a vocabulary of 262,144, logits are most of a CPU step. The hidden states of the trained positions alone are let
through to the output matrix, by a hook before it: what a model does to its logits after that (Gemma 2's soft cap,
Granite's scale) it still does itself. The loss is the cross-entropy of the trained tokens, as TRL's own.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch.nn.functional import cross_entropy

from sumika.finetune.chat import IGNORED


def summed(model: Any, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The summed cross-entropy (nats) of a batch's trained tokens, and how many they are.

    `inputs`: `input_ids`, `attention_mask` and `labels`, each of shape [rows, longest row].
    """
    # The logits at a position are about the token after it.
    labels = inputs["labels"][:, 1:]
    trained = labels != IGNORED
    others = {name: value for name, value in inputs.items() if name != "labels"}

    def gather(_: Any, given: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return given[0][:, :-1][trained][None]

    hook = extract_model_from_parallel(model).get_output_embeddings().register_forward_pre_hook(gather)
    try:
        logits = model(**others, use_cache=False).logits[0]
    finally:
        hook.remove()
    return cross_entropy(logits.float(), labels[trained], reduction="sum"), trained.sum()
