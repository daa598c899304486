"""Where the adapter will be served, and what it must reach first."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sumika.finetune.config.fields import Name
from sumika.finetune.group import Group

Share = Annotated[float, Field(ge=0, le=1)]


class Gate(Group):
    """What a candidate must reach to be served; one that does not is registered and may not serve."""

    min_facts: Share = 0.6
    """Share of held-out rows answered with the right facts."""
    better_than_base: bool = True
    """And more of them than the base answers."""
    not_worse_than_served: bool = True
    """And no fewer than the version now in service under the alias."""
    min_f1: Share | None = None
    """Mean character F1 of the answers against the held-out rows' own."""
    max_loss: float | None = Field(default=None, gt=0, le=1000)
    """Mean loss on the held-out rows' answers, in nats a token."""
    suites: dict[str, Share] = Field(default={}, max_length=100)
    """Suite's name: the share of its rows that must be right."""


class Serve(Group):
    """What vLLM will be asked to do with the result."""

    alias: Name
    """The adapter's name in the registry, and the alias that apps call."""
    max_lora_rank: Literal[8, 16, 32, 64, 128, 256, 320, 512] = 16
    """The limit of the engine that will load it, as engine.max_lora_rank in sumika.yaml."""
    gate: Gate = Gate()
    """What it must reach."""
