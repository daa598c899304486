"""`/v1/batches`: ask for many requests at once, see how far they are, and call them off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi import Query as InQuery
from pydantic import ConfigDict, Field

from sumika.models import audit, batches, files
from sumika.models.audit import Action
from sumika.models.batches import Batch
from sumika.models.errors import SumikaError
from sumika.models.files import File
from sumika.models.principals import Principal
from sumika.models.store import Store
from sumika.serving.admin.asking import After, Asker, Body, actor
from sumika.serving.bulk.expiry import ExpiresAfter
from sumika.serving.bulk.lists import listed
from sumika.serving.operations import OPERATIONS
from sumika.serving.replies import language
from sumika.serving.requests.fields import Id, Metadata
from sumika.serving.sensitivity import check_sensitivity, said

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
_Path = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
_ENDPOINTS: Mapping[str, Any] = {operation.path: operation.endpoint for operation in OPERATIONS}
Limit = Annotated[int, InQuery(ge=1, le=100)]


class NewBatch(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [
        {"input_file_id": "file-0123456789abcdef01234567", "endpoint": "/v1/chat/completions", "completion_window": "24h",
         "metadata": {"部署": "総務", "用途": "月次の要約"}},
    ]})  # fmt: skip

    input_file_id: Id
    endpoint: _Path
    completion_window: Literal["24h"]
    metadata: Metadata | None = Field(default=None)
    output_expires_after: ExpiresAfter | None = None


def router(store: Store) -> APIRouter:
    routes = APIRouter(prefix="/v1/batches", tags=["batches"])

    @routes.post("")
    def create(who: Asker, asked: NewBatch, request: Request) -> dict[str, Any]:
        headers, by = request.scope["headers"], actor(who)
        check_sensitivity(who, headers)
        _check_may(who, asked.endpoint)
        with audit.refusals(store, Action.BATCH_CREATE, asked.input_file_id, by), store.write(by=by) as connection:
            batch = batches.create(
                connection, who, asked.endpoint, _input(files.get(connection, who, asked.input_file_id)),
                sensitivity=said(headers), language=language(headers), metadata=asked.metadata,
                output_seconds=asked.output_expires_after.seconds if asked.output_expires_after else None,
            )  # fmt: skip
        return batch.shown()

    @routes.get("")
    def list_batches(who: Asker, limit: Limit = 20, after: After = "") -> dict[str, Any]:
        with store.read() as connection:
            rows = batches.page(connection, who, after=after, limit=limit + 1)
        return listed([batch.shown() for batch in rows], limit)

    @routes.get("/{batch_id}")
    def show(who: Asker, batch_id: str) -> dict[str, Any]:
        with store.read() as connection:
            return batches.get(connection, who, batch_id).shown()

    @routes.post("/{batch_id}/cancel")
    def cancel(who: Asker, batch_id: str) -> dict[str, Any]:
        by = actor(who)
        with audit.refusals(store, Action.BATCH_CANCEL, batch_id, by), store.write(by=by) as connection:
            cancelled: Batch = batches.cancel(connection, batches.get(connection, who, batch_id))
            return cancelled.shown()

    return routes


def _check_may(who: Principal, path: str) -> None:
    """Raises SumikaError `forbidden`, `key_needed` (403)."""
    if not who.may_reach(_ENDPOINTS[path]):
        raise SumikaError(
            "forbidden",
            f"This key may not use '{_ENDPOINTS[path]}', in a batch neither. Ask your administrator for one that may.",
            f"このキーでは「{_ENDPOINTS[path]}」を利用できないため、バッチでも使えません。管理者に依頼してください。",
            status=403,
        )
    if who.id.startswith("oidc:"):
        raise SumikaError(
            "key_needed",
            "A batch runs for hours under the key that made it, and a token ends before. Make it with an API key.",
            "バッチは作成したキーの権限で数時間実行されます。トークンでは途中で切れるため、APIキーで作成してください。",
            status=403,
        )


def _input(file: File) -> File:
    """Raises SumikaError `wrong_purpose`."""
    if file.purpose != "batch":
        raise SumikaError(
            "wrong_purpose", f"{file.id} was uploaded for '{file.purpose}'; upload it with purpose 'batch'.",
            f"{file.id} の purpose は「{file.purpose}」です。purpose を batch にしてアップロードしてください。", param="input_file_id",
        )  # fmt: skip
    return file
