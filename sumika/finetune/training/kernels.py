"""What this machine has to make training faster, found where it is and asked for by no key."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal


def attention() -> Literal["flash_attention_2", "sdpa"]:
    """The attention to load a base with: FlashAttention keeps rows apart within one sequence, torch's own does not."""
    import torch

    return "flash_attention_2" if torch.cuda.is_available() and find_spec("flash_attn") else "sdpa"


def keeps_rows_apart(model: object) -> bool:
    """Whether rows may share a sequence without seeing each other (with torch's attention they would: on Gemma 3 the
    positions go wrong too, LlamaFactory#10736)."""
    return getattr(getattr(model, "config", None), "_attn_implementation", "") == "flash_attention_2"
