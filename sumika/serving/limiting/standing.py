"""How a limit stands, for those who count, refuse and tell."""

from __future__ import annotations

from typing import Literal, NamedTuple

Unit = Literal["requests", "tokens"]


class Standing(NamedTuple):
    """How one limit stands: what is left, and seconds until all of it is."""

    unit: Unit
    limit: int
    left: int
    reset_s: float
