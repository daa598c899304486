"""One request to an engine and its answer back: bytes pass through as they come; who leaves ends the generation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import cast

import aiohttp
from starlette.types import Message, Receive, Scope, Send

from sumika.models.errors import SumikaError
from sumika.serving import engine_routes
from sumika.serving.replies import error_event, language
from sumika.serving.usage_events import BodyCount, StreamCount

_DONE = b"data: [DONE]"
_KEPT_HEADERS = ("content-type",)
_REASON_BYTES = 64 * 1024
_JSON = {"content-type": "application/json"}


class ClientGone(Exception):
    """The client closed its connection, or reads no more; there is nobody to answer."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to the first byte of an answer, and between two pieces of it."""

    first_byte_s: float
    idle_s: float


class Upstream:
    """Connections to the engines, one pool for each socket, kept open between requests."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._sessions: dict[str, aiohttp.ClientSession] = {}

    def session(self, socket: str) -> aiohttp.ClientSession:
        session = self._sessions.get(socket)
        if session is None:
            session = self._sessions[socket] = aiohttp.ClientSession(
                connector=aiohttp.UnixConnector(path=socket, limit=0),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=self._timeouts.first_byte_s),
                auto_decompress=False,
            )
        return session

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()

    async def forward(self, socket: str, path: str, body: bytes, answer: Answer) -> None:
        """Send `body` to the engine and its answer to the client.

        Raises:
            SumikaError: `engine_unreachable`, `engine_failed`, or what the engine found wrong with the request;
                always before the first byte to the client.
        """
        try:
            async with self.session(socket).post(
                engine_routes.url("gateway", "POST", path), data=body, headers=_JSON
            ) as response:
                if response.status != 200:
                    raise _refusal(response.status, await response.content.read(_REASON_BYTES))
                await answer.start(response)
                await self._pump(response, answer)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            failure = _lost(error)
            if not answer.started:
                raise failure from error
            await answer.break_off(failure)

    async def _pump(self, response: aiohttp.ClientResponse, answer: Answer) -> None:
        content = response.content
        while True:
            async with asyncio.timeout(self._timeouts.idle_s):
                chunk = await content.readany()
            if not chunk:
                break
            try:
                async with asyncio.timeout(self._timeouts.idle_s):
                    await answer.send(chunk)
            except TimeoutError:
                raise ClientGone from None
        if not answer.complete:
            raise aiohttp.ClientPayloadError("the stream ended without [DONE]")
        await answer.end()


class Answer:
    """What goes back to the client: status and headers once, then bytes; for a broken stream one error event."""

    def __init__(self, scope: Scope, send: Send, *, shows_usage: bool) -> None:
        self._scope = scope
        self._send = send
        self._shows_usage = shows_usage
        self._is_stream = False
        self._tail = b""
        self.count: StreamCount | BodyCount = BodyCount()
        self.started = False

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """What is ours to tell beside what the engine's answer says of itself."""
        return []

    async def start(self, response: aiohttp.ClientResponse) -> None:
        self._is_stream = response.content_type == "text/event-stream"
        if self._is_stream:
            self.count = StreamCount(shows_usage=self._shows_usage)
        kept = [(name.encode(), response.headers[name].encode("latin-1")) for name in _KEPT_HEADERS if name in response.headers]
        if "content-length" in response.headers and not self._is_stream:
            kept.append((b"content-length", response.headers["content-length"].encode()))
        await self._send({"type": "http.response.start", "status": 200, "headers": kept + self.headers})
        self.started = True

    async def send(self, chunk: bytes) -> None:
        """Count a piece of the engine's answer and pass on what the client asked for."""
        chunk = self.count.feed(chunk)
        if chunk:
            await self.pass_on(chunk)

    async def pass_on(self, chunk: bytes) -> None:
        if self._is_stream:
            self._tail = chunk[-len(_DONE) - 4 :]  # only whole events pass
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    @property
    def complete(self) -> bool:
        """A whole stream says so itself; other answers are as long as their Content-Length."""
        return not self._is_stream or _DONE in self._tail

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def break_off(self, error: SumikaError) -> None:
        """One error event and no [DONE]; an answer that is no stream is cut, which its length betrays."""
        if self._is_stream:
            event = error_event(error, language(self._scope["headers"]))
            await self._send({"type": "http.response.body", "body": event, "more_body": True})
            await self.end()


async def read_body(scope: Scope, receive: Receive, limit: int, timeout_s: float) -> bytes:
    """The whole body, bounded in size and time.

    Raises:
        SumikaError: `body_too_large` (413, told before reading where the length is declared), `body_timeout` (408).
        ClientGone: when the client left.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value[:20]) > limit:
            raise _too_large(limit)
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise SumikaError(
                "unsupported_encoding", "Compressed requests are not taken; send the JSON as it is.",
                "圧縮されたリクエストは受け付けません。JSONをそのまま送ってください。", status=415,
            )  # fmt: skip
    chunks, size = [], 0
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
                if size > limit:
                    raise _too_large(limit)
                if not message.get("more_body", False):
                    return b"".join(chunks)
    except TimeoutError:
        raise SumikaError(
            "body_timeout", f"The request did not arrive within {timeout_s:.0f} s; send it again.",
            f"リクエストが {timeout_s:.0f} 秒以内に届きませんでした。もう一度送ってください。", status=408,
        ) from None  # fmt: skip


async def unless_gone(receive: Receive, work: Awaitable[None]) -> None:
    """Do `work` in this task, and cancel it when the client disconnects.

    Raises:
        ClientGone: when the client left first.
    """
    task = cast("asyncio.Task[object]", asyncio.current_task())  # a coroutine runs in one
    gone = False

    def leave(_: asyncio.Future[None]) -> None:
        nonlocal gone
        gone = True
        task.cancel()

    watch = asyncio.ensure_future(_disconnected(receive))
    watch.add_done_callback(leave)
    try:
        await work
    except asyncio.CancelledError:
        if gone and not task.uncancel():  # by nobody else's wish
            raise ClientGone from None
        raise
    finally:
        watch.remove_done_callback(leave)
        watch.cancel()


async def _disconnected(receive: Receive) -> None:
    message: Message = {"type": ""}
    while message["type"] != "http.disconnect":
        message = await receive()


def _refusal(status: int, body: bytes) -> SumikaError:
    """The engine's own words for what is wrong with a request; of anything else only that the engine failed."""
    try:
        told = json.loads(body)
        message = str(told.get("error", told).get("message", ""))
    except (ValueError, AttributeError):
        message = ""
    if status == 400 and message:
        code = "context_length_exceeded" if "context length" in message else "invalid_request"
        return SumikaError(code, message, f"エンジンがリクエストを受け付けませんでした: {message}")
    if status == 404:
        return SumikaError(
            "version_not_loaded", "The engine is still loading this version; try again in a moment.",
            "エンジンがこの版を読み込み中です。少し待ってからやり直してください。", status=503, retry_after=2,
        )  # fmt: skip
    return SumikaError(
        "engine_failed", f"The engine failed on this request (status {status}). Try again; if it repeats, tell your administrator.",
        f"エンジンがこのリクエストで失敗しました(状態 {status})。やり直しても続く場合は管理者に連絡してください。", status=502,
    )  # fmt: skip


def _lost(error: BaseException) -> SumikaError:
    if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError):
        return SumikaError(
            "engine_timeout", "The engine did not answer in time. Try again with a shorter prompt or fewer tokens.",
            "エンジンが時間内に応答しませんでした。プロンプトや出力を短くしてやり直してください。", status=504,
        )  # fmt: skip
    return SumikaError(
        "engine_unreachable", "The engine stopped and is being restarted. Try again in a moment.",
        "エンジンが停止したため再起動しています。少し待ってからやり直してください。", status=503, retry_after=10,
    )  # fmt: skip


def _too_large(limit: int) -> SumikaError:
    return SumikaError(
        "body_too_large", f"The request is larger than {limit:,} bytes; shorten it.",
        f"リクエストが上限 {limit:,} バイトを超えています。短くしてください。", status=413,
    )  # fmt: skip
