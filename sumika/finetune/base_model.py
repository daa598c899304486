"""A base's weights in memory, the same way for training and for the references that prove an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def load(folder: Path, device: str | None = None) -> Any:
    """The base in bf16, which halves a CPU step too; on the GPU where there is one unless `device` says otherwise."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # a second of reading needs no bar of its own
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, local_files_only=True).to(device)
