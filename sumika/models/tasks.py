"""What a base model is made for, and so which endpoints its aliases answer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from sumika.models import pooling

Task = Literal["chat", "embedding", "rerank"]


def of(meta: Mapping[str, Any]) -> Task:
    """Of a base by what the registry keeps of it; versions from before there were others are for chat."""
    task: Task = meta.get("task", "chat")
    return task


def told_by(source: Path, architecture: str) -> dict[str, str]:
    """What the registry should keep of a base in folder `source`: `task`, and `pooling` where one is told.

    sentence-transformers' `modules.json` says that a model embeds, whatever its class; else transformers' name of the class
    does: a bare `…Model` gives hidden states, a classifier of pairs one score.
    """
    hidden_states = architecture.endswith("Model") and not architecture.endswith("LMHeadModel")
    if hidden_states or (source / pooling.MODULES).is_file():
        how = pooling.read(source)
        return {"task": "embedding"} | ({"pooling": how} if how else {})
    return {"task": "rerank" if architecture.endswith("ForSequenceClassification") else "chat"}
