"""`POST /v1/files`: a form streamed to disk. Nothing of it stays in memory, and nothing on disk unless all of it was right."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from sumika.models import audit, files
from sumika.models.actor import Actor
from sumika.models.audit import Action
from sumika.models.errors import SumikaError
from sumika.models.files import File, Purpose
from sumika.models.principals import Principal, Sensitivity, one_of
from sumika.models.settings import GatewaySettings
from sumika.models.shelf import Draft, Shelf
from sumika.models.store import Store
from sumika.serving.bulk import form
from sumika.serving.bulk.expiry import expiry_seconds
from sumika.serving.bulk.form import Form
from sumika.serving.bulk.jsonl import LineCheck
from sumika.serving.places import Full, Places
from sumika.serving.proxy import ClientGone
from sumika.serving.sensitivity import check_sensitivity, said
from sumika.serving.threads import to_end

PATH = "/v1/files"
# For the OpenAPI document, which FastAPI can't make of a plain endpoint.
DOCUMENT: Mapping[str, Any] = {
    "tags": ["files"], "operationId": "upload_file", "summary": "ファイルをアップロードする",
    "description": "A form with one JSONL file in UTF-8, as OpenAI's clients send it; for fine-tune also .csv, .tsv, .parquet or .xlsx. `expires_after[anchor]` is `created_at`.",
    "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": {
        "type": "object", "required": ["file", "purpose"], "additionalProperties": False,
        "properties": {
            "file": {"type": "string", "contentMediaType": "application/octet-stream"}, "purpose": {"enum": ["batch", "fine-tune"]},
            "expires_after[anchor]": {"const": "created_at"}, "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2592000},
        },
    }}}},
    "responses": {"200": {"description": "the file, as OpenAI's `file` object"}},
}  # fmt: skip
_PURPOSES: tuple[Purpose, ...] = ("batch", "fine-tune")
# At once, in one worker: of all, and of one team (or one key without a team).
_MOST_AT_ONCE = 16
_MOST_OF_ONE = 4
# Beside the file: boundaries, headers and the other fields.
_FORM_BYTES = 64 * 1024
_PIECE = 256 * 1024
# Who sends more slowly holds a connection for nothing. Bytes a second, after the time that any body gets.
_SLOWEST = 64 * 1024
# A line of a batch is a request and what says where it goes.
LINE_BYTES = 4096
# What training takes of one row, and no more than fits memory many times over.
_LONGEST_ROW = 16 * 2**20


class Upload:
    """The endpoint, as plain ASGI: FastAPI would read the whole form before any of our limits."""

    def __init__(self, store: Store, shelf: Shelf, settings: GatewaySettings) -> None:
        self._store = store
        self._shelf = shelf
        self._settings = settings
        self._places = Places(_MOST_AT_ONCE, _MOST_OF_ONE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientGone):
            file = await self._admit(scope, receive)
            await JSONResponse(file.shown())(scope, receive, send)

    async def _admit(self, scope: Scope, receive: Receive) -> File:
        """Raises SumikaError: whatever the upload is refused with; nothing of it is left then."""
        who: Principal = scope["state"]["principal"]
        check_sensitivity(who, scope["headers"])
        try:
            with self._places.hold(who.owner):
                return await self._take(scope, receive, who)
        except Full as full:
            raise _too_many(full) from None

    async def _take(self, scope: Scope, receive: Receive, who: Principal) -> File:
        boundary = form.boundary(scope["headers"])
        declared = next((int(v[:20]) for n, v in scope["headers"] if n == b"content-length" and v.isdigit()), 0)
        if declared > self._settings.max_file_bytes + _FORM_BYTES:
            raise self._too_large()
        await to_end(self._check_room, who, max(0, declared - _FORM_BYTES))
        draft = await to_end(self._shelf.begin)
        try:
            longest = max(_LONGEST_ROW, self._settings.max_body_bytes + LINE_BYTES)
            reader = _Reader(boundary, draft, LineCheck(longest), self._settings.max_file_bytes, self._too_large)
            await self._read(receive, reader)
            return await to_end(self._keep, who, said(scope["headers"]), reader, draft)
        finally:
            await to_end(draft.discard)

    async def _read(self, receive: Receive, reader: _Reader) -> None:
        began, received, buffer, more = time.monotonic(), 0, bytearray(), True
        while more:
            late = began + self._settings.body_timeout_s + received / _SLOWEST - time.monotonic()
            try:
                async with asyncio.timeout(max(0.0, late)):
                    message = await receive()
            except TimeoutError:
                raise SumikaError(
                    "body_timeout", "The upload comes too slowly; send it again over a better connection.",
                    "アップロードが遅すぎるため中断しました。もう一度送ってください。", status=408,
                ) from None  # fmt: skip
            if message["type"] == "http.disconnect":
                raise ClientGone
            buffer += message.get("body", b"")
            more = message.get("more_body", False)
            if len(buffer) >= _PIECE or not more:
                received += len(buffer)
                if received > self._settings.max_file_bytes + _FORM_BYTES:
                    raise self._too_large()
                await to_end(reader.feed, bytes(buffer))
                buffer.clear()
        await to_end(reader.end)

    def _keep(self, who: Principal, sensitivity: Sensitivity, reader: _Reader, draft: Draft) -> File:
        """The bytes first, then the row: what a crash leaves between them is swept away."""
        by = Actor(who.id, who.role, who.source)
        file = files.made(
            who.owner, who.id, reader.purpose, reader.filename, draft.bytes, draft.sha256, reader.expires_s, sensitivity
        )
        draft.settle(file.id)
        try:
            with audit.refusals(self._store, Action.FILE_CREATE, file.id, by), self._store.write(by=by) as connection:
                if files.stored_bytes(connection, who.owner) + file.bytes > self._settings.max_stored_bytes:
                    raise self._no_room()
                files.add(connection, file)
        except BaseException:
            self._shelf.drop(file.id)
            raise
        return file

    def _check_room(self, who: Principal, size: int) -> None:
        with self._store.read() as connection:
            if files.stored_bytes(connection, who.owner) + size > self._settings.max_stored_bytes:
                raise self._no_room()

    def _too_large(self) -> SumikaError:
        most = self._settings.max_file_bytes
        return SumikaError(
            "file_too_large", f"The file is larger than {most:,} bytes; split it.",
            f"ファイルが上限 {most:,} バイトを超えています。分割してください。", status=413, param="file",
        )  # fmt: skip

    def _no_room(self) -> SumikaError:
        most = self._settings.max_stored_bytes
        return SumikaError(
            "too_much_stored", f"Your files would take more than {most:,} bytes; delete some that you no longer need.",
            f"保存容量の上限 {most:,} バイトを超えます。不要なファイルを削除してください。", status=413, param="file",
        )  # fmt: skip


def _too_many(full: Full) -> SumikaError:
    if full.own:
        return SumikaError(
            "too_many_uploads", f"You are uploading {_MOST_OF_ONE} files already; try again when one of them is through.",
            f"すでに {_MOST_OF_ONE} 件をアップロード中です。いずれかが終わってからやり直してください。", status=429, retry_after=10,
        )  # fmt: skip
    return SumikaError(
        "too_many_uploads", "Too many files are being uploaded now; try again in a moment.",
        "アップロードが混み合っています。少し待ってからやり直してください。", status=503, retry_after=10,
    )  # fmt: skip


class _Reader:
    """The form as it comes: the file's bytes checked and written, the fields read."""

    def __init__(self, boundary: bytes, draft: Draft, lines: LineCheck, most: int, too_large: Callable[[], SumikaError]) -> None:
        self._form = Form(boundary, self._take)
        self._draft, self._lines, self._most, self._too_large = draft, lines, most, too_large
        self._not_lines: SumikaError | None = None

    def feed(self, data: bytes) -> None:
        self._form.feed(data)

    def end(self) -> None:
        self._form.end()
        self.purpose: Purpose = one_of(_PURPOSES, self._form.fields["purpose"], "purpose")
        self.filename = self._form.filename or ""
        if not (files.is_table(self.filename) and self.purpose == "fine-tune" and self._draft.bytes):
            if self._not_lines is not None:
                raise self._not_lines
            self._lines.end()
        self.expires_s = expiry_seconds(
            self._form.fields.get("expires_after[anchor]"), self._form.fields.get("expires_after[seconds]")
        )

    def _take(self, data: bytes) -> None:
        if self._draft.bytes + len(data) > self._most:
            raise self._too_large()
        if self._not_lines is None:
            self._check_lines(data)
        self._draft.write(data)

    def _check_lines(self, data: bytes) -> None:
        """A table's bytes are read by the job that names it; until the purpose is known they are kept all the same."""
        try:
            self._lines.feed(data)
        except SumikaError as error:
            if not files.is_table(self._form.filename or ""):
                raise
            self._not_lines = error
