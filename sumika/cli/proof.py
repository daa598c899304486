"""How commands tell whether a move was proven (`models/proof.py`)."""

from __future__ import annotations

from sumika.cli import output
from sumika.models.canary import Origin
from sumika.models.moves import Move
from sumika.models.proof import Proof as Proof
from sumika.models.proof import of as of
from sumika.models.store import Store


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
