"""HTTP/1.1 to one engine over its Unix socket: what a request and its answer need and nothing more.

A general client takes 67 µs of CPU for each request here, aiohttp's on uvloop; this takes 12 (docs/performance.md). httptools, which
uvicorn reads requests with, reads the answers.
"""

from __future__ import annotations

import asyncio
import time
from typing import cast

import httptools

_HEAD = b"POST %s HTTP/1.1\r\nhost: engine\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n"
_MAX_HEADER_BYTES = 64 * 1024
# What may wait here for a client that reads slowly, before the engine has to wait too.
_MOST_WAITING_BYTES = 256 * 1024
_CONNECT_S = 5.0
# vLLM closes a connection that was idle for 5 s; one that is about to be closed is not worth the risk.
_MOST_IDLE_S = 2.0


class EngineLost(OSError):
    """The engine can't be reached, broke off, or does not speak HTTP."""


class Wires:
    """Connections to one engine, kept open between requests."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._idle: list[Wire] = []

    async def take(self) -> Wire:
        """A connection for one request.

        Raises:
            EngineLost: when there is nobody at the socket.
        """
        while self._idle:
            wire = self._idle.pop()
            if wire.fresh:
                return wire
            wire.close()
        return await self.connect()

    async def connect(self) -> Wire:
        """A new connection.

        Raises:
            EngineLost: when there is nobody at the socket.
        """
        try:
            async with asyncio.timeout(_CONNECT_S):
                _, wire = await asyncio.get_running_loop().create_unix_connection(Wire, self._socket)
        except (TimeoutError, OSError) as error:
            raise EngineLost(f"no engine at its socket ({type(error).__name__})") from error
        return wire

    def give_back(self, wire: Wire) -> None:
        """Keep `wire` where its answer came to its end; else close it, by which the engine learns that nobody waits."""
        if wire.reusable:
            wire.idle_since = time.monotonic()
            self._idle.append(wire)
        else:
            wire.close()

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


class Wire(asyncio.Protocol):
    """One connection, one request at a time: `ask`, `begun`, then `read` until it gives nothing."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.complete = True
        self.idle_since = 0.0
        self._transport: asyncio.Transport
        self._parser: httptools.HttpResponseParser
        self._has_begun = False
        self._keep_alive = False
        self._header_bytes = 0
        self._pieces: list[bytes] = []
        self._waiting_bytes = 0
        self._paused = False
        self._lost: EngineLost | None = None
        self._waiter: asyncio.Future[None] | None = None

    def ask(self, path: str, headers: bytes, body: bytes) -> None:
        """Send a request of JSON. `headers`: lines of those that are its own."""
        self._parser = httptools.HttpResponseParser(self)
        self.headers, self.complete, self._has_begun, self._header_bytes = {}, False, False, 0
        self._transport.write(_HEAD % (path.encode("ascii"), headers, len(body)) + body)

    async def begun(self) -> None:
        """Wait until `status` and `headers` (names in lower case) are there.

        Raises:
            EngineLost: when they never come.
        """
        while not self._has_begun:
            await self._change()

    async def read(self) -> bytes:
        """What came since; waits for more where nothing did. Nothing: the answer is complete.

        Raises:
            EngineLost: when it broke off, after all that had come.
        """
        while not self._pieces and not self.complete:
            await self._change()
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._waiting_bytes = 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        return data

    @property
    def waits(self) -> bool:
        """Whether `read` would have to wait."""
        return not self._pieces and not self.complete

    @property
    def waiting(self) -> bool:
        """Whether something came that was not read yet."""
        return bool(self._pieces)

    @property
    def reusable(self) -> bool:
        return self.complete and self._keep_alive and not self._pieces and self._lost is None

    @property
    def fresh(self) -> bool:
        return self._lost is None and time.monotonic() - self.idle_since < _MOST_IDLE_S

    @property
    def was_closed_idle(self) -> bool:
        """Whether the engine ended it after an earlier answer, without a word to the last request."""
        return self._lost is not None and self.idle_since > 0 and self._header_bytes == 0

    def close(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.complete:
            self._break("it spoke without being asked")
            return
        if not self._has_begun:
            self._header_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._break(f"its answer is no HTTP ({type(error).__name__})")
        if not self._has_begun and self._header_bytes > _MAX_HEADER_BYTES:
            self._break("its headers have no end")
        self._wake()

    def on_message_begin(self) -> None:
        if self._has_begun:
            raise ValueError("a second answer to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._keep_alive = self._parser.should_keep_alive()
        self._has_begun = True

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)
        self._waiting_bytes += len(body)
        if self._waiting_bytes > _MOST_WAITING_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        self.complete = True

    def connection_lost(self, exc: Exception | None) -> None:
        self._break("it closed the connection" if exc is None else f"the connection broke ({type(exc).__name__})")

    def _break(self, why: str) -> None:
        if self._lost is None:
            self._lost = EngineLost(f"the engine is lost: {why}")
            self._transport.abort()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _change(self) -> None:
        if self._lost is not None:
            raise self._lost
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter
