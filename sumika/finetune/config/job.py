"""What the job is called and learns by, the base it stands on, and how a conversation is put to that base."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from sumika.finetune.config.fields import Name, VersionName
from sumika.finetune.group import Group

Method = Literal["sft", "dpo"]
TrainOn = Literal["answers", "last_answer"]


class Job(Group):
    """A run's name and what fixes its randomness."""

    name: Name
    """The run's folder under $SUMIKA_HOME/runs begins with it."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Fixes the order of the rows and LoRA's first weights; same seed, same machine: same adapter."""
    method: Method = "sft"
    """sft learns answers from conversations and text; dpo learns from preference pairs which of two answers is better."""


class Base(Group):
    """The model that is adapted."""

    version: VersionName
    """NAME@N, or NAME for its newest version."""
    quantize: Literal["none", "nf4"] = "none"
    """nf4 keeps the frozen base in 4 bits while the adapter trains (QLoRA; CUDA only)."""


class Chat(Group):
    """How rows become what the model sees."""

    system: Annotated[str, StringConstraints(min_length=1, max_length=20_000)] | None = None
    """A system message for rows that bring none, held-out rows and suites included."""
    train_on: TrainOn = "answers"
    """Which of a conversation's answers are trained: all, or the last alone."""
