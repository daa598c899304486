"""How a batch ends, and what is told of each of its requests that was not made."""

from __future__ import annotations

from dataclasses import dataclass

from sumika.models.batches import State
from sumika.models.errors import SumikaError


@dataclass(frozen=True, slots=True)
class Ending:
    """`state` of the batch, and what stands in the error file for what was not asked. `whole`: the batch itself failed with it."""

    state: State
    error: SumikaError
    whole: bool = False


COMPLETED = Ending(
    "completed", SumikaError("batch_incomplete", "This request was not made.", "このリクエストは実行されませんでした。")
)
EXPIRED = Ending(
    "expired",
    SumikaError(
        "batch_expired", "This request was not made before the batch's 24 hours were over.",
        "バッチの期限(24時間)までに実行されませんでした。",
    ),
)  # fmt: skip
CANCELLED = Ending(
    "cancelled",
    SumikaError("batch_cancelled", "The batch was cancelled before this request was made.", "実行前にバッチが中止されました。"),
)
KEY_ENDED = Ending(
    "failed",
    SumikaError(
        "key_ended",
        "The key that made this batch was revoked, has expired or may no longer use this endpoint. What was done is kept; make a new batch for the rest.",
        "このバッチを作成したキーが失効したか、このエンドポイントを使えなくなりました。完了分は保存されています。残りは新しいバッチで実行してください。",
    ),
    whole=True,
)
INPUT_GONE = Ending(
    "failed",
    SumikaError(
        "input_missing", "The batch's input file is no longer on the server's disk; upload it again.",
        "入力ファイルがサーバーにありません。もう一度アップロードしてください。",
    ),
    whole=True,
)  # fmt: skip
FAULT = Ending(
    "failed",
    SumikaError(
        "gateway_fault", "The gateway met a fault of its own with this batch, several times. Tell your administrator its number.",
        "このバッチの処理中にゲートウェイ内部で問題が繰り返し起きました。管理者にバッチ番号を伝えてください。",
    ),
    whole=True,
)  # fmt: skip
