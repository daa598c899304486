"""One request to an engine and its answer back: bytes pass through as they come; who leaves ends the generation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import cast

from starlette.types import Message, Receive, Scope, Send

from sumika.models.errors import SumikaError
from sumika.serving import engine_errors, engine_routes
from sumika.serving.dialects import Dialect
from sumika.serving.engine_answers import check_events, check_whole
from sumika.serving.engine_errors import EngineError
from sumika.serving.replies import language
from sumika.serving.usage_events import BodyCount, Count, NoCount, StreamCount
from sumika.serving.wire import EngineLost, Wire, Wires

_EVENT_END = b"\n\n"
_KEEP_ALIVE = b": keep-alive\n\n"
# Longer than how any dialect's last event begins.
_BEGINNING = 64
_REASON_BYTES = 64 * 1024
# Of an answer in one piece, looked at before any of it is sent: nearly all are shorter.
_HELD_BYTES = 1024 * 1024
# Bytes a second. A client that reads more slowly, after `idle_s` of waiting in all, keeps a place at the engine from others.
_SLOWEST_READER = 8 * 1024


class ClientGone(Exception):
    """The client closed its connection, or reads no more; there is nobody to answer."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to the first byte of an answer, and between two pieces of it; of silence in a stream before a comment
    keeps the connection alive."""

    first_byte_s: float
    idle_s: float
    keep_alive_s: float = 15


class Upstream:
    """Connections to the engines."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._wires: dict[str, Wires] = {}

    def close(self) -> None:
        for wires in self._wires.values():
            wires.close()

    async def forward(self, socket: str, path: str, headers: bytes, body: bytes, answer: Answer) -> None:
        """Send `body` to the engine, with `headers` of ours, and its answer to the client.

        Raises:
            SumikaError: `engine_unreachable`, `engine_timeout`, `engine_failed`, or what the engine found wrong with the request;
                always before the first byte to the client.
        """
        wires = self._wires.get(socket) or self._wires.setdefault(socket, Wires(socket))
        answer.asked = False
        try:
            wire = await wires.take()
            answer.asked = True
            try:
                async with asyncio.timeout(self._timeouts.first_byte_s):
                    wire = await _asked(wires, wire, path, headers, body)
                if wire.status != 200:
                    raise engine_errors.refusal(wire.status, await self._reason(wire))
                if not answer.takes(wire.headers):
                    raise engine_errors.rubbish()
                held = b"" if answer.is_stream else await self._beginning(wire)
                if not answer.is_stream:
                    check_whole(held, answer.holds, complete=wire.complete and not wire.waiting)
                await answer.start(wire.headers)
                if held:
                    await self._pass_on(held, answer)
                await self._pump(wire, answer)
            finally:
                wires.give_back(wire)
        except (TimeoutError, EngineLost) as error:
            failure = engine_errors.lost(error)
            if not answer.started:
                raise failure from error
            await answer.break_off(failure)
        except EngineError as error:
            if not answer.started:
                raise
            await answer.break_off(error)

    async def _reason(self, wire: Wire) -> bytes:
        """What the engine says of a refusal, as far as it is of use."""
        said = b""
        async with asyncio.timeout(self._timeouts.idle_s):
            while len(said) < _REASON_BYTES and (more := await wire.read()):
                said += more
        return said[:_REASON_BYTES]

    async def _beginning(self, wire: Wire) -> bytes:
        """An answer that is no stream, whole where it is not very long: who would get half of one gets an error, or another
        engine's answer."""
        said = b""
        while len(said) < _HELD_BYTES:
            async with asyncio.timeout(self._timeouts.idle_s):
                more = await wire.read()
            if not more:
                break
            said += more
        return said

    async def _pump(self, wire: Wire, answer: Answer) -> None:
        while chunk := await (self._next(wire, answer) if wire.waits else wire.read()):
            await self._pass_on(chunk, answer)
        if not answer.complete:
            raise EngineLost("the stream ended before its last event")
        await answer.end()

    async def _pass_on(self, chunk: bytes, answer: Answer) -> None:
        """Raises ClientGone for a client that reads nothing, or too slowly."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._timeouts.idle_s):
                await answer.send(chunk)
        except TimeoutError:
            raise ClientGone from None
        answer.sent_bytes += len(chunk)
        answer.waited_s += time.monotonic() - began
        if answer.waited_s > self._timeouts.idle_s + answer.sent_bytes / _SLOWEST_READER:
            raise ClientGone

    async def _next(self, wire: Wire, answer: Answer) -> bytes:
        """The next piece of an answer. While a stream's engine is silent over a long prompt, a comment goes to the client now
        and then: proxies on the way end what is silent for a minute."""
        left = self._timeouts.idle_s
        while True:
            patience = min(left, self._timeouts.keep_alive_s) if answer.is_stream else left
            try:
                async with asyncio.timeout(patience) as waiting:
                    return await wire.read()
            except TimeoutError:
                left -= patience
                if left <= 0 or not waiting.expired():
                    raise
                await answer.keep_alive()


async def _asked(wires: Wires, wire: Wire, path: str, headers: bytes, body: bytes) -> Wire:
    """The connection whose answer has begun: another one where the engine closed `wire` before it had read the request."""
    wire.ask(engine_routes.path("gateway", "POST", path), headers, body)
    try:
        await wire.begun()
    except EngineLost:
        if not wire.was_closed_idle:
            raise
        wire.close()
        wire = await wires.connect()
        wire.ask(engine_routes.path("gateway", "POST", path), headers, body)
        try:
            await wire.begun()
        except BaseException:  # a timeout, or the client left: the caller knows only the first connection
            wire.close()
            raise
    return wire


class Answer:
    """What goes back to the client: status and headers once, then bytes; for a broken stream one error event.

    `is_stream`: whether a stream of events was asked for, else one object of JSON, which has a field `holds`."""

    def __init__(self, scope: Scope, send: Send, dialect: Dialect, *, is_stream: bool, shows_usage: bool) -> None:
        self._scope = scope
        self._send = send
        self._dialect = dialect
        self._shows_usage = shows_usage
        self._last_event = b""
        self.is_stream = is_stream
        self.holds = "choices"
        self.count: Count = BodyCount() if dialect.counts else NoCount()
        self.started = False
        # Whether the engine was asked to tell tokens in every event.
        self.running_usage = False
        # Whether the engine was reached, so that it may have died of the request.
        self.asked = False
        # How much the client read, and how long it let us wait for that in all.
        self.sent_bytes = 0
        self.waited_s = 0.0

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """What is ours to tell beside what the engine's answer says of itself."""
        return []

    def takes(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether the engine's answer is of the kind that was asked for."""
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        return kind == (b"text/event-stream" if self.is_stream else b"application/json")

    async def start(self, headers: Mapping[bytes, bytes]) -> None:
        """Begin, with what of the engine's `headers` clients may see."""
        kept = [(b"content-type", headers[b"content-type"])]
        if self.is_stream:
            self.count = StreamCount(self._dialect.usage, shows_usage=self._shows_usage, running=self.running_usage)
        elif b"content-length" in headers:
            kept.append((b"content-length", headers[b"content-length"]))
        await self._send({"type": "http.response.start", "status": 200, "headers": kept + self.headers})
        self.started = True

    async def send(self, chunk: bytes) -> None:
        """Count a piece of the engine's answer and pass on what the client asked for.

        Raises:
            EngineError, EngineLost: where a stream tells that the engine failed; what came before has gone on.
        """
        chunk = self.count.feed(chunk)
        if self.is_stream:
            check_events(chunk)
        failure = chunk.find(self._dialect.fails) if self.is_stream else -1
        if chunk and failure:
            await self.pass_on(chunk if failure < 0 else chunk[:failure])
        if failure >= 0:
            raise engine_errors.gave_up(chunk[failure:])

    async def pass_on(self, chunk: bytes) -> None:
        if self.is_stream:
            last = chunk.rfind(_EVENT_END, 0, -2) + 2  # only whole events pass
            self._last_event = chunk[last if last > 1 else 0 :][:_BEGINNING]
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def keep_alive(self) -> None:
        """A comment, which every reader of server-sent events passes over."""
        await self._send({"type": "http.response.body", "body": _KEEP_ALIVE, "more_body": True})

    @property
    def complete(self) -> bool:
        """A whole stream says so itself; other answers are as long as their Content-Length."""
        return not self.is_stream or self._last_event.startswith(self._dialect.ends)

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def break_off(self, error: SumikaError) -> None:
        """One error event in place of the end; an answer that is no stream is cut, which its length betrays."""
        if self.is_stream:
            event = self._dialect.broken(error, language(self._scope["headers"]))
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
    gone = ended = False

    def leave(_: asyncio.Future[None]) -> None:
        """May be called after the work has ended: a watch that is done has this callback scheduled already."""
        nonlocal gone
        if not ended:
            gone = True
            task.cancel()

    watch = asyncio.ensure_future(_disconnected(receive))
    watch.add_done_callback(leave)
    try:
        await work
    except asyncio.CancelledError:
        left, gone = gone, False
        if left and not task.uncancel():  # by nobody else's wish
            raise ClientGone from None
        raise
    finally:
        ended = True
        if gone:  # the work ended all the same, or by an error of its own: what comes next is not to be cancelled
            task.uncancel()
        watch.remove_done_callback(leave)
        watch.cancel()


async def _disconnected(receive: Receive) -> None:
    message: Message = {"type": ""}
    while message["type"] != "http.disconnect":
        message = await receive()


def _too_large(limit: int) -> SumikaError:
    return SumikaError(
        "body_too_large", f"The request is larger than {limit:,} bytes; shorten it.",
        f"リクエストが上限 {limit:,} バイトを超えています。短くしてください。", status=413,
    )  # fmt: skip
