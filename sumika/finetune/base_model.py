"""A base's weights in memory, the same way for training and for the references that prove an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from sumika.finetune.training import kernels


def load(folder: Path, device: str | None = None, *, quantize: Literal["none", "nf4"] = "none") -> Any:
    """The base in bf16, which halves a CPU step too; on the GPU where there is one unless `device` says otherwise.

    `nf4`: weights in 4 bits with their scales quantised too, as in QLoRA (Dettmers et al., 2023); on CUDA alone.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # a second of reading needs no bar of its own
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    where: dict[str, Any] = {"dtype": torch.bfloat16, "local_files_only": True}
    if device == "cuda":
        where["attn_implementation"] = kernels.attention()
    if quantize == "nf4":
        return _in_4_bits(folder, where)
    return AutoModelForCausalLM.from_pretrained(folder, **where).to(device)


def _in_4_bits(folder: Path, where: dict[str, Any]) -> Any:
    import torch
    from peft import prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    four_bits = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=four_bits, device_map={"": torch.cuda.current_device()}, **where
    )
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
