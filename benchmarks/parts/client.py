"""A client that costs next to nothing, so that what is measured is not the client."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httptools

_MOMENT = re.compile(rb'"content": ?"t(\d+)')
_CHAT = {"messages": [{"role": "user", "content": "経費精算の締め切りはいつですか。" * 8}], "max_tokens": 64}


@dataclass
class Answer:
    """Seconds from the request to its first byte of a body and to its end, events of a stream, and how late each came where it tells its moment."""

    status: int
    first_byte_s: float
    total_s: float
    events: int = 0
    late_s: list[float] = field(default_factory=list)


class Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._done: asyncio.Future[Answer] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        self._parser = httptools.HttpResponseParser(self)
        self._began, self._first, self._late, self._last, self._events = time.perf_counter(), 0.0, list[float](), b"", 0
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)  # type: ignore[attr-defined]
        return self._done

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        now = time.monotonic_ns()
        self._first = self._first or time.perf_counter()
        self._events += body.count(b"data: {")
        self._late += [(now - int(sent)) / 1e9 for sent in _MOMENT.findall(body)]
        self._last = body[-64:]

    def on_message_complete(self) -> None:
        now = time.perf_counter()
        status = self._parser.get_status_code()
        if self._events and not self._last.rstrip().endswith(b"data: [DONE]"):
            status = 599  # a stream that ended before its end
        assert self._done is not None
        self._done.set_result(Answer(status, self._first - self._began, now - self._began, self._events, self._late))

    def connection_lost(self, error: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError(f"the connection was closed ({error})"))


class Client:
    """Connections to one place."""

    def __init__(self, url: str, key: str, model: str) -> None:
        """`url`: http://host:port, or unix:/path."""
        self._url = urlsplit(url)
        self._key, self._model = key, model
        self._idle: list[Connection] = []

    def request(self, **more: object) -> bytes:
        body = json.dumps({"model": self._model} | _CHAT | more, ensure_ascii=False).encode()
        host = self._url.netloc or "localhost"
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {self._key}\r\ncontent-type: application/json\r\n"
        return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body

    async def ask(self, request: bytes) -> Answer:
        connection = self._idle.pop() if self._idle else await self._connect()
        answer = await connection.ask(request)
        self._idle.append(connection)
        return answer

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        if self._url.scheme == "unix":
            return (await loop.create_unix_connection(Connection, self._url.path))[1]
        return (await loop.create_connection(Connection, self._url.hostname, self._url.port))[1]
