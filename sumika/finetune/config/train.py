"""How the adapter learns: LoRA's size, the optimiser's steps, what is kept of them, and when to end before the end."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationInfo, field_validator

from sumika.finetune.group import Group, refused_at

Module = Annotated[str, StringConstraints(min_length=1, max_length=256)]
_MOST_STEPS = 10**8


class Lora(Group):
    """As in PEFT."""

    r: int = Field(default=16, ge=1, le=512)
    """The rank; serve.max_lora_rank is its limit."""
    alpha: int = Field(default=32, ge=1, le=2**16)
    """The update is scaled by alpha / r."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the adapter's inputs that a training step leaves out."""
    target_modules: Literal["all-linear"] | Annotated[list[Module], Field(min_length=1, max_length=1000)] = "all-linear"
    """Which of the base's matrices are adapted: all in its layers, or a list such as [q_proj, v_proj]."""
    use_rslora: bool = False
    """Scale by alpha / √r instead (rank-stabilised LoRA), for large r."""


class Train(Group):
    """The optimiser's steps."""

    epochs: float = Field(default=3, gt=0, le=1000)
    """How often each row is seen."""
    max_steps: int | None = Field(default=None, ge=1, le=_MOST_STEPS)
    """End after this many steps, however many epochs that is."""
    batch_tokens: int = Field(default=4096, ge=16, le=2**24)
    """Tokens of one optimiser step, padding not counted; rows at once and accumulation follow from it and from memory."""
    learning_rate: float = Field(default=2e-4, gt=0, le=1)
    """The highest rate, reached when the warm-up ends."""
    scheduler: Literal["constant", "linear", "cosine"] = "cosine"
    """How the rate falls after the warm-up."""
    warmup: float = Field(default=0.05, ge=0, lt=1)
    """Share of all steps in which the rate rises."""
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    """AdamW's decay of the adapter's weights."""
    max_grad_norm: float = Field(default=1.0, gt=0, le=1e6)
    """Gradients longer than this are scaled down to it."""
    beta: float = Field(default=0.1, gt=0, le=10)
    """DPO only: how closely the answers stay to the base's; higher is closer."""
    compile: bool = False
    """torch.compile: minutes at the start for faster steps; CUDA, long runs."""
    gpus: int = Field(default=1, ge=1, le=64)
    """GPUs of this machine that train together; a CPU counts as one."""
    sharding: Literal["ddp", "fsdp"] = "ddp"
    """With several GPUs: ddp keeps a whole base on each, fsdp spreads it over them."""

    @field_validator("sharding")
    @classmethod
    def _several_gpus(cls, sharding: str, info: ValidationInfo) -> str:
        if sharding == "fsdp" and info.data.get("gpus") == 1:
            raise refused_at(
                en="fsdp spreads the base over several GPUs, and train.gpus is 1; raise it, or write ddp",
                ja="fsdp はベースモデルを複数のGPUに分けますが、train.gpus が 1 です。増やすか、ddp にしてください",
            )
        return sharding


class Checkpoint(Group):
    """What a killed run goes on from."""

    every: int = Field(default=50, ge=1, le=_MOST_STEPS)
    """Optimiser steps between two checkpoints."""
    keep: int = Field(default=2, ge=1, le=100)
    """How many of the newest stay on disk."""


class StopEarly(Group):
    """End when the held-out rows' loss no longer falls."""

    every: int = Field(default=50, ge=1, le=_MOST_STEPS)
    """Optimiser steps between two evaluations."""
    patience: int = Field(default=3, ge=1, le=10_000)
    """Evaluations without a better loss after which training ends."""
    min_delta: float = Field(default=0.0, ge=0, le=1000)
    """What counts as better: a loss lower by more than this."""
