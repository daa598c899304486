"""Whether a move was proven: the engine's answers compared with the adapter's reference (`models/canary.py`)."""

from __future__ import annotations

from typing import Literal

from sqlalchemy import Connection

from sumika.cli import output
from sumika.models import registry
from sumika.models.canary import Origin
from sumika.models.moves import Move
from sumika.models.store import Store

Proof = Literal["proven", "unproven"]


def of(connection: Connection, move: Move) -> Proof | None:
    """None for a base, which needs no proof, and for a move that did not end well."""
    if move.state != "done" or registry.by_id(connection, move.to_id).kind == "base":
        return None
    return "proven" if move.canary else "unproven"


def mark_unproven(store: Store, move: Move) -> None:
    """Say so where an adapter was moved in that nothing proves."""
    with store.read() as connection:
        if of(connection, move) != "unproven":
            return
    output.warn(
        f"{move.to_ref} is unproven: it has no reference, so nobody checked that the engine answers with it. Importing its folder again makes one.",
        f"{move.to_ref} は未検証です。比較用の応答(リファレンス)がないため、エンジンがこのアダプターで応答しているか確認していません。フォルダーを取り込み直すと作成されます。",
    )


def unproven() -> str:
    return "未検証" if output.language() == "ja" else "unproven"


_ORIGINS: dict[Origin | None, tuple[str, str]] = {
    "training": ("trained here", "学習時に作成"),
    "import": ("made at import", "取り込み時に作成"),
    "brought": ("came with it", "ファイルに付属"),
    None: ("none — unproven", "なし(未検証)"),
}


def origin(of: Origin | None) -> str:
    """Where a reference comes from, for a person."""
    en, ja = _ORIGINS[of]
    return ja if output.language() == "ja" else en
