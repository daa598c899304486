"""What is trained, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sumika.finetune.batching import Batching
from sumika.finetune.chat import ChatFormat, Rendered, RenderedPair
from sumika.finetune.config import JobConfig

Rows = Sequence[Rendered] | Sequence[RenderedPair]


@dataclass(frozen=True, slots=True)
class Task:
    """What is trained: rows for `config`, held-out rows for stopping early, in steps as `batching` has them, in folder `run`."""

    config: JobConfig
    chat: ChatFormat
    rows: Rows
    held_out: Sequence[Rendered]
    batching: Batching
    run: Path


@dataclass(frozen=True, slots=True)
class Trained:
    """A PEFT model after training, and the figures of its run; `losses` are of every step, resumed ones too."""

    model: Any
    steps: int
    seconds: float
    trained_tokens: int
    losses: list[float]
    best_step: int | None
