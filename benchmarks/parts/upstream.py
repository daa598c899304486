"""An engine that answers at once and always the same, over a Unix socket and over TCP: what is left is the cost of the way to it."""

from __future__ import annotations

import asyncio
import re
import time

EVENTS = 64
_USAGE = '"usage":{"prompt_tokens":80,"total_tokens":144,"completion_tokens":64,"prompt_tokens_details":{"cached_tokens":64}}'
_HEAD = '{"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1,"model":"bench",'
_WHOLE = (
    _HEAD.replace(".chunk", "") + '"choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"' + "住処" * 64 + '"}}],' + _USAGE + "}"
).encode()  # fmt: skip
_JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
_LAST = f'data: {_HEAD}"choices":[],{_USAGE}}}\n\n'.encode()
_MODELS = b'{"object":"list","data":[{"id":"bench","object":"model","created":1,"owned_by":"bench"}]}'
_SEED = re.compile(rb'"seed": ?(\d+)')


class Upstream(asyncio.Protocol):
    """One connection. `seed` of a streaming request is its events in a second; each carries the moment it was sent in."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._data = transport, b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        if not end or len(body) < int(length[1] if length else 0):
            return
        self._data = b""
        if head.startswith(b"GET"):
            self._write(_JSON % len(_MODELS) + _MODELS)
        elif b'"stream":true' in body.replace(b" ", b""):
            pace = _SEED.search(body)
            self._write(_STREAM)
            self._event(0, asyncio.get_running_loop().time(), 1 / int(pace[1] if pace else 200))
        else:
            self._write(_JSON % len(_WHOLE) + _WHOLE)

    def _event(self, number: int, began: float, every_s: float) -> None:
        """Each in a step of its own, as tokens come, at the moment it is due."""
        chunk = self._word() if number < EVENTS else _LAST if number == EVENTS else b"data: [DONE]\n\n"
        self._write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        if number <= EVENTS:
            asyncio.get_running_loop().call_at(began + (number + 1) * every_s, self._event, number + 1, began, every_s)
        else:
            self._write(b"0\r\n\r\n")

    def _word(self) -> bytes:
        content = f"t{time.monotonic_ns()}住"
        return f'data: {_HEAD}"choices":[{{"index":0,"delta":{{"content":"{content}"}},"logprobs":null,"finish_reason":null}}]}}\n\n'.encode()

    def _write(self, data: bytes) -> None:
        self._transport.write(data)  # type: ignore[attr-defined]


async def serve(path: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    await loop.create_server(Upstream, "127.0.0.1", port)
    server = await loop.create_unix_server(Upstream, path)
    await server.serve_forever()
