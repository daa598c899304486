"""What a base model is made for, and so which endpoints its aliases answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Task = Literal["chat", "embedding", "rerank"]
Pooling = Literal["mean", "cls", "last"]


def of(meta: Mapping[str, Any]) -> Task:
    """Of a base by what the registry keeps of it; versions from before there were others are for chat."""
    task: Task = meta.get("task", "chat")
    return task


def of_architecture(name: str) -> Task:
    """By how transformers names its classes: a bare `…Model` gives hidden states, a classifier of pairs one score."""
    if name.endswith("ForSequenceClassification"):
        return "rerank"
    return "embedding" if name.endswith("Model") and not name.endswith("LMHeadModel") else "chat"
