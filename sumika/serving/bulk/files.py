"""`/v1/files` beside the upload: list, show, read and delete what is the asker's team's."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sumika.models import audit, files
from sumika.models.audit import Action
from sumika.models.files import File, Purpose
from sumika.models.principals import Principal
from sumika.models.shelf import Shelf
from sumika.models.store import Store
from sumika.serving import lookups
from sumika.serving.admin.asking import After, Asker, actor
from sumika.serving.bulk.lists import listed
from sumika.serving.threads import to_end

MOST = 10_000
_PIECE = 256 * 1024


def router(store: Store, shelf: Shelf, idle_timeout_s: float) -> APIRouter:
    routes = APIRouter(prefix="/v1/files", tags=["files"])

    @routes.get("")
    def list_files(
        who: Asker,
        limit: Annotated[int, Query(ge=1, le=MOST)] = MOST,
        after: After = "",
        order: Literal["asc", "desc"] = "desc",
        purpose: Purpose | None = None,
    ) -> dict[str, Any]:
        with store.read() as connection:
            rows = files.page(connection, who, purpose, after=after, limit=limit + 1, newest_first=order == "desc")
        return listed([file.shown() for file in rows], limit)

    @routes.get("/{file_id}")
    def show(who: Asker, file_id: str) -> dict[str, Any]:
        return find(store, who, file_id).shown()

    @routes.delete("/{file_id}")
    def delete(who: Asker, file_id: str) -> dict[str, Any]:
        by = actor(who)
        with audit.refusals(store, Action.FILE_REMOVE, file_id, by), store.write(by=by) as connection:
            file = files.get(connection, who, file_id)
            files.remove(connection, file)
        shelf.drop(file.id)
        return {"id": file.id, "object": "file", "deleted": True}

    @routes.get("/{file_id}/content", response_class=Response)
    def content(who: Asker, file_id: str) -> Content:
        file = find(store, who, file_id)
        try:
            fd = os.open(shelf.path(file.id), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # deleted since
            raise files.no_such_file(file_id) from None
        try:
            lookups.record(store, who, Action.FILE_READ, file.id, {"purpose": file.purpose, "sha256": file.sha256})
        except BaseException:
            os.close(fd)
            raise
        return Content(file, fd, idle_timeout_s)

    return routes


def find(store: Store, who: Principal, file_id: str) -> File:
    """Raises SumikaError `not_found`; `sensitivity_refused` (403)."""
    with store.read() as connection:
        return files.get(connection, who, file_id)


class Content(Response):
    """A file's bytes as they are, piece by piece; a client that reads no more is left after `idle_timeout_s`. Takes `fd` over."""

    def __init__(self, file: File, fd: int, idle_timeout_s: float) -> None:
        super().__init__()
        self._file, self._fd, self._idle_s = file, fd, idle_timeout_s

    def _download_name(self) -> str:
        """Ours: what the client called it decides the ending alone, and only one that we know."""
        return self._file.id + (self._file.name[self._file.name.rindex(".") :].lower() if self._file.is_table else ".jsonl")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        headers = [
            (b"content-type", b"application/octet-stream"), (b"content-length", b"%d" % self._file.bytes),
            (b"content-disposition", b'attachment; filename="%s"' % self._download_name().encode()),
            (b"x-content-type-options", b"nosniff"),
        ]  # fmt: skip
        try:
            with suppress(TimeoutError):
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                while data := await to_end(os.read, self._fd, _PIECE):
                    async with asyncio.timeout(self._idle_s):
                        await send({"type": "http.response.body", "body": data, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            os.close(self._fd)
