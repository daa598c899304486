"""HTTP as the gateway takes it: uvicorn's protocol, with a deadline and a limit for headers, and refusals in our envelope.

uvicorn has a deadline for idle connections only: a client that sends one header byte every few seconds would hold its
connection for ever, and httptools takes headers of any length.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from sumika.models.errors import SumikaError
from sumika.serving.chunk_sizes import ChunkSizes
from sumika.serving.replies import error_body, language

_HEADER_DEADLINE_S = 10.0
_MAX_HEADER_BYTES = 64 * 1024
_MAX_HEADERS = 100
# How long a refused client may go on sending, so that the refusal reaches it: a socket closed with unread bytes is reset.
_LINGER_S = 2.0
# What is read of it and thrown away: twice the usual longest body.
_MOST_DISCARDED_BYTES = 4 * 2**20
# How long a client may read nothing while something waits for it.
_WRITE_DEADLINE_S = 20.0
# What may come beside a body's own bytes once the headers are over: sizes of chunks, and what a parser keeps until it knows what it is.
_MOST_FRAMING_BYTES = 512 * 1024
_FRAMING_OF_A_BYTE = 16
_HEAD = b"HTTP/1.1 "
_END_OF_HEADERS = b"\r\n\r\n"
# '/' and '\' as a part of a name, which some readers of paths take for a separator, and what nobody need escape (RFC 3986, 2.3).
_DISGUISED = re.compile(rb"%(?:2[DEF]|3[0-9]|4[1-9A-F]|5[0-9ACF]|6[1-9A-F]|7[0-9A])", re.IGNORECASE)
# host[:port], the host as a name, an IPv4 address or an IPv6 one in brackets (RFC 9110, 7.2).
_HOST = re.compile(rb"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


class BoundedHttp(HttpToolsProtocol):
    """One connection. What breaks a rule is told once and closed before any handler sees it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: asyncio.TimerHandle | None = None
        # As they come over the wire, to bound what has no end; as they are read, to bound each request's.
        self._header_bytes = self._read_header_bytes = 0
        self._in_headers = True
        self._tail = b""
        self._chunked = False
        self._sizes: ChunkSizes | None = None
        self._discarded = 0
        self._after_headers = 0
        self._body_bytes = 0
        self._write_deadline: asyncio.TimerHandle | None = None
        self._refusal: SumikaError | None = None
        self._lingering = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_OneWrite(transport, self.loop))  # type: ignore[arg-type]
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._disarm_write()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            return self._discard(len(data))
        if self.transport.is_closing():
            return
        headers, rest = self._parted(data) if self._in_headers else (b"", data)
        if headers:
            self._headers_received(headers)
        if rest and not self._ended:
            self._body_received(rest)

    @property
    def _ended(self) -> bool:
        return self._lingering or self.transport.is_closing()

    def _parted(self, data: bytes) -> tuple[bytes, bytes]:
        """What belongs to the headers, and what follows them."""
        before = len(self._tail)
        seen = self._tail + data
        self._tail = seen[1 - len(_END_OF_HEADERS) :]
        end = seen.find(_END_OF_HEADERS)
        if end < 0:
            return data, b""
        self._tail = b""
        end += len(_END_OF_HEADERS) - before
        return data[:end], data[end:]

    def _headers_received(self, data: bytes) -> None:
        self._header_bytes += len(data)
        super().data_received(data)
        if self._ended:
            return
        if self._in_headers and self._header_bytes > _MAX_HEADER_BYTES:
            self._refuse(_too_long())
        elif not self._in_headers and self._chunked:  # what follows begins with a chunk
            self._sizes = ChunkSizes()

    def _body_received(self, data: bytes) -> None:
        """A body; or the next request, which a client may send before it has the answer to the one before."""
        self._after_headers += len(data)
        if self._sizes is not None and not self._sizes.fit(data):
            return self._refuse(_no_http("a chunk of its body is too long", "本文のチャンクが大きすぎます"))
        super().data_received(data)
        if self._ended:
            return
        self._tail = data[1 - len(_END_OF_HEADERS) :] if self._in_headers else b""
        if self.cycle is not None and self.cycle.response_complete and self.cycle.more_body:
            self._discard(len(data))
        if self._after_headers - self._body_bytes * _FRAMING_OF_A_BYTE > _MOST_FRAMING_BYTES:
            self.transport.abort()  # a chunk's extension without an end, or a trailer

    def _discard(self, size: int) -> None:
        """Read what a refused client still sends, so that it comes to read the refusal; but not without end."""
        self._discarded += size
        if self._discarded <= _MOST_DISCARDED_BYTES or self.transport.is_closing():
            return
        if not self._lingering:
            self._disarm()
            self._linger()
        self.transport.pause_reading()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._disarm_write()
        self._write_deadline = self.loop.call_later(_WRITE_DEADLINE_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._disarm_write()
        super().resume_writing()

    def on_message_begin(self) -> None:
        self._in_headers = True
        self._after_headers = self._body_bytes = self._read_header_bytes = self._discarded = 0
        self._sizes = None
        if self._deadline is None:
            self._arm()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._read_header(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_headers:  # behind a body, where nobody looks any more who decides by headers
            raise self._broken(_no_http("it has headers after its body", "本文の後にヘッダーがあります"))
        super().on_header(name, value)
        self._read_header(len(name) + len(value))
        if len(self.headers) > _MAX_HEADERS:
            raise self._broken(_too_long())

    def _read_header(self, size: int) -> None:
        self._read_header_bytes += size
        if self._read_header_bytes > _MAX_HEADER_BYTES:
            raise self._broken(_too_long())

    def on_headers_complete(self) -> None:
        self._disarm()
        self._in_headers, self._header_bytes = False, 0
        self._check()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._disarm()
        self._in_headers, self._header_bytes, self._sizes = True, 0, None  # of the next request, if there is one
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.more_body and not self.transport.is_closing():  # refused before its body had come: it may still, in time
            self._deadline = self.loop.call_later(_HEADER_DEADLINE_S, self.transport.close)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's own words are in English and plain text
        self._refuse(self._refusal or _no_http("it can't be read", "読み取れません"))

    def shutdown(self) -> None:
        self._disarm()
        super().shutdown()

    def _check(self) -> None:
        """What httptools lets through and nobody needs: rather refused than understood differently by a proxy before us."""
        hosts = [value for name, value in self.headers if name == b"host"]
        if self.parser.get_http_version() != "1.1":
            raise self._broken(_no_http("it is not HTTP/1.1", "HTTP/1.1 ではありません"))
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
            raise self._broken(_no_http("it needs one Host header with a host name", "正しい Host ヘッダーが1つ必要です"))
        if not self.url.startswith(b"/") or not self.url.isascii():
            raise self._broken(_no_http("its target must be a path", "パスを指定してください"))
        names = {name for name, _ in self.headers}
        if _DISGUISED.search(self.url.partition(b"?")[0]):
            raise self._broken(
                _no_http("its path escapes what a path has no need to escape", "パスに不要なエスケープが含まれています")
            )
        if b"content-length" in names and b"transfer-encoding" in names:
            raise self._broken(_no_http("it gives its length twice", "本文の長さが二重に指定されています"))
        codings = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
        if codings not in ([], [b"chunked"]):
            raise self._broken(_no_http("its transfer encoding is not 'chunked'", "Transfer-Encoding が chunked ではありません"))
        self._chunked = bool(codings)

    def _broken(self, refusal: SumikaError) -> ValueError:
        """What ends httptools' parsing; `send_400_response` then tells the refusal."""
        self._refusal = refusal
        return ValueError(refusal.code)

    def _refuse(self, error: SumikaError) -> None:
        self._disarm()
        if self.cycle is not None and not self.cycle.response_complete:
            if self._in_headers or self.pipeline or self.cycle.response_started or not self.cycle.more_body:
                self.transport.close()  # an earlier request of this connection has its answer to come: nothing may come between
                return
            self.cycle.disconnected = True  # its body will never be whole: whoever reads it is told that there is nobody
            self.cycle.message_event.set()
        body = json.dumps(error_body(error, language(self.headers or ())), ensure_ascii=False).encode()
        head = (b"content-type: application/json", b"content-length: %d" % len(body), b"connection: close")
        self.transport.write(STATUS_LINE[error.status] + b"\r\n".join((*head, b"", body)))
        self._linger()

    def _linger(self) -> None:
        """Say that no more comes, and throw away what still arrives, for a moment."""
        self._lingering = True
        self._unset_keepalive_if_required()
        self.transport.write_eof()
        self._deadline = self.loop.call_later(_LINGER_S, self.transport.close)

    def _arm(self) -> None:
        self._deadline = self.loop.call_later(_HEADER_DEADLINE_S, self._too_slow)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _disarm_write(self) -> None:
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        self._refuse(_slow())


class _OneWrite:
    """A transport that sends an answer's head together with what follows at once: one packet for the client to wake up for."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not data:
            return
        if self._held:
            data, self._held = self._held + data, b""
        elif data.startswith(_HEAD):
            self._held = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def write_eof(self) -> None:
        self._flush()
        self._transport.write_eof()

    def close(self) -> None:
        """What was written still goes out, to a client that reads it soon."""
        self._flush()
        self._transport.close()
        self._loop.call_later(_WRITE_DEADLINE_S, self._transport.abort)

    def _flush(self) -> None:
        if self._held:
            self._transport.write(self._held)
            self._held = b""


def _no_http(en: str, ja: str) -> SumikaError:
    return SumikaError(
        "invalid_http", f"This is no request that can be answered: {en}.", f"このリクエストには応答できません: {ja}。", status=400
    )


def _too_long() -> SumikaError:
    return SumikaError(
        "headers_too_large", f"The request's headers are longer than {_MAX_HEADER_BYTES:,} bytes or more than {_MAX_HEADERS}.",
        f"リクエストヘッダーが {_MAX_HEADER_BYTES:,} バイトまたは {_MAX_HEADERS} 個を超えています。", status=431,
    )  # fmt: skip


def _slow() -> SumikaError:
    return SumikaError(
        "header_timeout", f"The request's headers did not arrive within {_HEADER_DEADLINE_S:.0f} s.",
        f"リクエストヘッダーが {_HEADER_DEADLINE_S:.0f} 秒以内に届きませんでした。", status=408,
    )  # fmt: skip
