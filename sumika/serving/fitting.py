"""Whether a model can do what a request asks of it, told before anything is queued or counted."""

from __future__ import annotations

from sumika.models.errors import SumikaError
from sumika.models.tasks import Task
from sumika.serving.directory import Target
from sumika.serving.operations import Operation
from sumika.serving.requests.fields import Asked

_RIGHT: dict[Task, tuple[str, str, str]] = {
    "chat": ("a chat model", "チャットモデル", "POST /v1/chat/completions"),
    "embedding": ("an embedding model", "埋め込みモデル", "POST /v1/embeddings"),
    "rerank": ("a reranking model", "リランクモデル", "POST /v1/rerank"),
}


def check_fits(alias: str, target: Target, operation: Operation, request: Asked) -> None:
    """Raises SumikaError `wrong_endpoint`, naming the right one; `tools_unsupported`, `thinking_unsupported`."""
    if operation.task not in (None, target.task):
        en, ja, path = _RIGHT[target.task]
        raise SumikaError(
            "wrong_endpoint", f"'{alias}' is {en}; send this to {path}.", f"「{alias}」は{ja}です。{path} に送ってください。",
            param="model",
        )  # fmt: skip
    if request.uses_tools and not target.tools:
        raise SumikaError(
            "tools_unsupported",
            f"'{alias}' can't call tools: its base has no tool parser. Leave tools out, or ask your administrator for a model that can.",
            f"「{alias}」はツールを呼び出せません(ベースモデルにツールパーサーがありません)。tools を省くか、対応モデルを管理者に依頼してください。",
            param="tools",
        )
    if request.bounds_thinking and not target.reasoning:
        raise SumikaError(
            "thinking_unsupported",
            f"'{alias}' does not think apart from its answer: its base has no reasoning parser. Leave thinking out.",
            f"「{alias}」は思考を分けて出力できません(ベースモデルに推論パーサーがありません)。thinking を省いてください。",
            param="thinking",
        )
