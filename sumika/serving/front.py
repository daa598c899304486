"""What every request passes before FastAPI's own layers, and how inference passes them by."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fastapi import FastAPI
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sumika.serving.drain import Drain
from sumika.serving.peer import Network, forwarded

_REQUEST_ID = b"x-request-id"
# Answers are for who asked: a proxy or a browser keeps none, and takes none for another kind of file than it is.
_PRIVATE = {b"cache-control": b"no-store", b"x-content-type-options": b"nosniff"}


class Front(FastAPI):
    """FastAPI with `surround` around all of it.

    Routes in `direct` are plain ASGI and are called from there at once: FastAPI's and Starlette's layers cost a tenth of a request.
    They are routes of the application all the same, for its document and for methods that are none of theirs.
    """

    def __init__(self, *, surround: Callable[[ASGIApp], ASGIApp], **options: Any) -> None:
        self._surround = surround
        self._direct: dict[tuple[str, str], ASGIApp] = {}
        super().__init__(**options)

    def direct(self, path: str, app: ASGIApp) -> None:
        """Answer `POST path` by `app`."""
        self._direct["POST", path] = app
        self.router.routes.append(Route(path, app, methods=["POST"]))

    def build_middleware_stack(self) -> ASGIApp:
        return self._surround(_Fork(self._direct, super().build_middleware_stack()))


class _Fork:
    def __init__(self, direct: Mapping[tuple[str, str], ASGIApp], other: ASGIApp) -> None:
        self._direct = direct
        self._other = other

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._direct.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        await (app or self._other)(scope, receive, send)


class Edge:
    """Gives every request an id of ours, answered as `X-Request-Id`; a client's own is not believed. What nobody caught is told
    by `fault`, where nothing was said yet.

    `refused` is told of each answer that is an error, whoever gave it. What runs when `drain` is over ends here. `proxy`: whom we
    believe who its client is.
    """

    def __init__(
        self,
        app: ASGIApp,
        drain: Drain,
        refused: Callable[[Scope, int], None],
        fault: Callable[[Scope, Exception], ASGIApp],
        proxy: Network | None = None,
    ) -> None:
        self._app = app
        self._drain = drain
        self._proxy = proxy
        self._refused = refused
        self._fault = fault

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req-{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id
        scope["client"] = forwarded(scope, self._proxy)
        begun = False

        async def with_id(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                if message["status"] >= 400:
                    self._refused(scope, message["status"])
                message["headers"] = [*_private(message.get("headers", [])), (_REQUEST_ID, request_id.encode())]
            await send(message)

        try:
            with self._drain.running():
                await self._app(scope, receive, with_id)
        except Exception as error:
            if begun:
                raise  # the server closes the connection, which says that the answer is not whole
            await self._fault(scope, error)(scope, receive, with_id)


def _private(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """`headers`, with those of `_PRIVATE` that whoever answers did not set."""
    given = list(headers)
    names = {name.lower() for name, _ in given}
    return given + [header for header in _PRIVATE.items() if header[0] not in names]
