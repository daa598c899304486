"""Bytes on the gateway's socket that no client library sends: refused or cut, in time, and never taken for two requests."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass

import pytest
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from tests.fuzz.conftest import House
from tests.fuzz.judge import check_envelope, raw
from tests.fuzz.runs import share, tried
from tests.fuzz.values import MARK

STATUSES = frozenset({100, 200, 400, 401, 403, 404, 405, 408, 413, 415, 422, 431})
BODY = json.dumps({"model": "talk", "messages": [{"role": "user", "content": MARK}]}).encode()
# Nothing here waits for more than a body that does not come (3 s, see conftest) or headers (10 s).
_LONGEST_S = 14.0
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@dataclass(frozen=True)
class Written:
    """A request as it goes over the wire."""

    line: bytes
    headers: tuple[bytes, ...]
    body: bytes

    def spelled(self, end: bytes = b"\r\n") -> bytes:
        return end.join((self.line, *self.headers, b"", b"")) + self.body


def good(key: str, *more: bytes, body: bytes = BODY) -> Written:
    headers = (
        b"host: x",
        b"authorization: Bearer " + key.encode(),
        b"content-type: application/json",
        b"content-length: %d" % len(body),
    )
    return Written(b"POST /v1/chat/completions HTTP/1.1", (*headers, b"connection: close", *more), body)


LINES = [
    b"GET /health/live HTTP/1.1", b"GET /health/live HTTP/1.0", b"GET /health/live HTTP/0.9", b"GET /health/live", b"GET", b"", b"\r\n\r\n", b" GET / HTTP/1.1",
    b"GET  /health/live HTTP/1.1", b"GET /health/live  HTTP/1.1", b"GET\t/health/live\tHTTP/1.1", b"get /health/live HTTP/1.1", b"GET /health/live http/1.1",
    b"GET /health/live HTTP/2.0", b"GET /health/live HTTP/1.1 x", b"PRI * HTTP/2.0", b"GET http://127.0.0.1/metrics HTTP/1.1", b"GET //metrics HTTP/1.1",
    b"GET /%2e%2e/metrics HTTP/1.1", b"GET /v1/../metrics HTTP/1.1", b"GET /v1/%2e%2e/metrics HTTP/1.1", b"GET /metrics%00 HTTP/1.1", b"GET /metrics?a=%00 HTTP/1.1",
    b"GET /metrics# HTTP/1.1", b"GET \\metrics HTTP/1.1", b"GET * HTTP/1.1", b"OPTIONS * HTTP/1.1", b"GET @evil HTTP/1.1", b"CONNECT x:443 HTTP/1.1", b"GET x:443 HTTP/1.1",
    b"GET /\xff\xfe HTTP/1.1", b"GET /%ff%fe HTTP/1.1", b"GET /" + b"a" * 70_000 + b" HTTP/1.1", b"GET /?" + b"a=b&" * 5_000 + b" HTTP/1.1", b"TRACE / HTTP/1.1", b"FOO / HTTP/1.1",
    b"A" * 300 + b" / HTTP/1.1", b"POST /v1/chat/completions/ HTTP/1.1", b"POST /v1/chat/completions%2F HTTP/1.1", b"POST /v1%2Fchat/completions HTTP/1.1",
    b"POST /pause HTTP/1.1", b"POST /v1/load_lora_adapter HTTP/1.1", b"POST /collective_rpc HTTP/1.1", b"GET /server_info HTTP/1.1", b"POST /%76%31/load_lora_adapter HTTP/1.1",
]  # fmt: skip
HEADERS = [
    b"content-length: 0", b"content-length: 1", b"content-length: 99999999999999999999999", b"content-length: -1", b"content-length: +5", b"content-length: 0x10",
    b"content-length: 5, 5", b"content-length: 5 ", b"content-length:", b"content-length : 5", b"Content-Length: 3\r\nContent-Length: 4", b"content-length: \xb2", b"content_length: 5",
    b"transfer-encoding: chunked", b"transfer-encoding: identity", b"transfer-encoding: gzip, chunked", b"transfer-encoding: chunked, identity", b"transfer-encoding: xchunked",
    b"transfer-encoding:\x0bchunked", b"Transfer-Encoding : chunked", b"transfer-encoding: chunked\r\ntransfer-encoding: identity", b"transfer_encoding: chunked", b"te: trailers",
    b"host: y", b"host: x/?", b"host:", b"host: [::1", b"Host : x", b"x-forwarded-host: evil", b"x-forwarded-for: 127.0.0.1", b"x_forwarded_user: admin", b"x-forwarded-user: admin",
    b"authorization: Bearer x", b"authorization: Basic eDp5", b"authorization:", b"authorization: Bearer " + b"a" * 60_000, b"authorization: Bearer \xff\x00",
    b"upgrade: websocket\r\nconnection: upgrade", b"upgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABk", b"expect: 100-continue", b"expect: 200-ok",
    b"content-encoding: gzip", b"content-encoding: identity", b"content-encoding: br, gzip", b"content-type: text/plain", b"content-type:", b"content-type: application/json; charset=utf-16",
    b" folded: x", b"x: a\r\n b", b"x: a\x00b", b"x: a\nb: c", b"x: a\rb", b"x\x00: a", b": x", b"x", b"\xe3\x81\x82: x", b"x: " + b"y" * 70_000, b"\r\n".join(b"x%d: y" % n for n in range(150)),
    b"cookie: __Host-sumika=x", b"cookie: " + b"a=b; " * 3_000, b"accept-language: ja", b"accept-language: " + b"ja," * 5_000, b"x-request-id: forged", b"x-sumika-priority: root",
    b"connection: keep-alive", b"connection: close, host", b"connection: x\r\nconnection: y", b"origin: null", b"range: bytes=0-", b"if-none-match: *",
]  # fmt: skip
CHUNKED = [
    b"0\r\n\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY), b"%x;ext=1\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY), b"ZZ\r\nx\r\n", b"-1\r\nx\r\n", b"0x5\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhelloX\r\n0\r\n\r\n", b"5\nhello\n0\n\n", b"fffffffffffffffff\r\nx", b"ffffffffffffffff\r\nx", b"5\r\nhel", b"5 \r\nhello\r\n0\r\n\r\n", b"0\r\nhost: y\r\n\r\n",
    b"0\r\nauthorization: Bearer x\r\n\r\n", b"0\r\ncontent-length: 5\r\n\r\n", b"5;" + b"a" * 100_000 + b"\r\nhello\r\n0\r\n\r\n", b"1\r\nx\r\n" * 3_000 + b"0\r\n\r\n", b"",
    b"0\r\n\r\nGET /metrics HTTP/1.1\r\nhost: x\r\n\r\n",
]  # fmt: skip
STREAMS = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(32),
    b"SSH-2.0-x\r\n",
    b"\x00" * 512,
    b"\r\n" * 2_000,
    b"\xff" * 100,
]


@st.composite
def messages(draw: DrawFn, key: str) -> bytes:
    """A request with one to three things wrong in how it is written, or what was never one."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.sampled_from(STREAMS) | st.binary(max_size=200))
    made = good(key)
    headers, line, body = list(made.headers), made.line, made.body
    for _ in range(draw(st.integers(1, 3))):
        what = draw(st.sampled_from(["line", "header", "header", "header", "instead", "drop", "chunked", "twice"]))
        if what == "line":
            line = draw(st.sampled_from(LINES))
        elif what == "header":
            headers.insert(draw(st.integers(0, len(headers))), draw(st.sampled_from(HEADERS)))
        elif what == "instead":
            headers[draw(st.integers(0, len(headers) - 1))] = draw(st.sampled_from(HEADERS))
        elif what == "drop" and len(headers) > 1:
            del headers[draw(st.integers(0, len(headers) - 1))]
        elif what == "chunked":
            headers = [h for h in headers if not h.startswith(b"content-length")] + [b"transfer-encoding: chunked"]
            body = draw(st.sampled_from(CHUNKED))
        elif what == "twice":
            body += draw(st.sampled_from([made.spelled(), b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n", b"x", b"\r\n"]))
    data = Written(line, tuple(headers), body).spelled(draw(st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"])))
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(min_size=1, max_size=3)) + data[at:]
    return data if draw(st.integers(0, 9)) else data[: draw(st.integers(0, len(data)))]


def judged(data: bytes, answer: bytes) -> None:
    """Only answers that are documented; each refusal in the envelope; and never somebody else's figures."""
    statuses = [int(found) for found in _STATUS.findall(answer)]
    assert set(statuses) <= STATUSES, (statuses, data[:600], answer[:600])
    assert b"sumika_requests_total" not in answer, data[:600]
    assert not answer or answer.startswith(b"HTTP/1.1 "), (data[:300], answer[:300])
    for part in re.split(rb"(?=HTTP/1\.1 \d{3} )", answer):
        head, _, body = part.partition(b"\r\n\r\n")
        if head[9:10] == b"4" and body and b"content-length" in head.lower():
            check_envelope(body)


def test_request_written_wrongly_is_refused_or_cut(house: House) -> None:
    """Many at once: some of these wait for what never comes."""
    host, port = house.client.host, house.client.port

    def ask_all(cases: list[bytes]) -> None:
        async def all_of_them() -> list[bytes]:
            return await asyncio.gather(*(exchanged(host, port, case) for case in cases))

        for case, answer in zip(cases, asyncio.run(all_of_them()), strict=True):
            judged(case, answer)

    batches = st.lists(messages(house.app_key), min_size=40, max_size=40)
    tried(batches, share(0.05 / 40), ask_all, shrinks=False)
    with house.flat():
        tried(batches, share(0.25 / 40), ask_all, shrinks=False)


async def exchanged(host: str, port: int, data: bytes) -> bytes:
    """What comes back until the gateway closes; the client's side stays open for a while, as an attacker's does."""
    reader, writer = await asyncio.open_connection(host, port)
    answer, began = b"", time.monotonic()
    try:
        writer.write(data)
        async with asyncio.timeout(0.5):
            while chunk := await reader.read(65_536):
                answer += chunk
    except TimeoutError:
        try:
            writer.write_eof()
            async with asyncio.timeout(_LONGEST_S):
                while chunk := await reader.read(65_536):
                    answer += chunk
        except TimeoutError:
            raise AssertionError(f"never ended: {data[:400]!r} was told {answer[:200]!r}") from None
        except OSError:
            pass
    except OSError:
        pass
    finally:
        writer.close()
    assert time.monotonic() - began < _LONGEST_S + 2
    return answer


@pytest.mark.parametrize(
    "headers",
    [(b"transfer-encoding: chunked",), (b"Transfer-Encoding: chunked", b"transfer-encoding: identity"), (b"transfer-encoding: xchunked",), (b"content-length: 4",)],
    ids=["both", "two codings", "unknown coding", "two lengths"],
)  # fmt: skip
def test_second_request_hidden_in_the_first_is_never_answered(house: House, headers: tuple[bytes, ...]) -> None:
    hidden = f"GET /metrics HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {house.client.key}\r\n\r\n".encode()
    data = good(house.client.key, *headers, body=b"0\r\n\r\n" + hidden).spelled()
    answer = raw(house.client.host, house.client.port, data)
    assert answer.startswith(b"HTTP/1.1 400") and answer.count(b"HTTP/1.1 ") == 1 and b"sumika_" not in answer


@pytest.mark.parametrize("endless", [b"5;" + b"a" * 65_536, b"0\r\nx: " + b"y" * 65_536], ids=["extension", "trailer"])
def test_body_whose_framing_never_ends_is_cut(house: House, endless: bytes) -> None:
    head = Written(
        good(house.client.key).line,
        (b"host: x", b"authorization: Bearer " + house.client.key.encode(), b"transfer-encoding: chunked"),
        b"",
    )
    with house.flat():
        answer = raw(house.client.host, house.client.port, head.spelled() + endless + b"z" * (32 * 2**20))
    assert answer == b"" or _STATUS.match(answer)
