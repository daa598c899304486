"""Whether a move was proven: the engine's answers compared with the adapter's reference (`canary.py`)."""

from __future__ import annotations

from typing import Literal

from sqlalchemy import Connection

from sumika.models import registry
from sumika.models.moves import Move

Proof = Literal["proven", "unproven"]


def of(connection: Connection, move: Move) -> Proof | None:
    """None for a base, which needs no proof, and for a move that did not end well."""
    if move.state != "done" or registry.by_id(connection, move.to_id).kind == "base":
        return None
    return "proven" if move.canary else "unproven"
