"""What no client library sends: raw bytes on the gateway's socket. Never a 500, never a hang, and the next one is served."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.integration.conftest import Stack, until

JSON = {"content-type": "application/json"}
CHAT = {"model": "talk", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(scope="module", autouse=True)
def talk(stack: Stack) -> str:
    version = stack.base()
    stack.deploy("talk", version)
    return str(version.ref)


@pytest.fixture(autouse=True)
def _serves_on(stack: Stack, talk: str) -> Iterator[None]:
    yield
    assert stack.chat("talk").status_code == 200


def connect(stack: Stack, timeout: float = 15) -> socket.socket:
    return socket.create_connection((stack.settings.host, stack.settings.port), timeout=timeout)


def told(stack: Stack, data: bytes) -> bytes:
    """What comes back to `data` until the gateway closes or nothing more comes."""
    with connect(stack) as link:
        link.sendall(data)
        link.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := link.recv(65_536):
            answer += chunk
    return answer


def post(stack: Stack, body: bytes, *headers: str, path: str = "/v1/chat/completions") -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "host: x",
        f"authorization: Bearer {stack.admin_key}",
        "content-type: application/json",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    "data",
    [
        b"GET /health/live\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x00" * 64,
        b"GET @evil HTTP/1.1\r\nhost: x\r\n\r\n", b"GET /health/live HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        b"GET / HTTP/9.9\r\n\r\n", b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nZZ\r\n",
        b"GET /health/live HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n", b"GET /health/live HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 200_000 + b"\r\n\r\n",
    ],
    ids=range(10),
)  # fmt: skip
def test_bytes_that_are_no_request_are_answered_400_or_cut(stack: Stack, data: bytes) -> None:
    answer = told(stack, data)
    assert answer == b"" or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 404", b"HTTP/1.1 431", b"HTTP/1.1 200"))
    assert b" 500 " not in answer[:20]


@pytest.mark.parametrize(
    "path", ["/v1/models/", "/v1/chat/completions/", "/metrics/", "//v1/models", "/v1//models", "/health/live/"]
)
def test_path_with_a_slash_too_many_is_not_found_and_never_sent_elsewhere(stack: Stack, path: str) -> None:
    answer = told(stack, f"GET {path} HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404") and b"evil.example" not in answer
    assert b'"code":"path_not_found"' in answer


@pytest.mark.parametrize("host", ["x/?", "x/#", "a/?x=", "[::", "", "evil\x7f"])
def test_host_that_plays_tricks_opens_no_door(stack: Stack, host: str) -> None:
    for path in ("/metrics", "/v1/models"):
        answer = told(stack, f"GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 400") and b'"code": "invalid_http"' in answer


@pytest.mark.parametrize(
    ("request_line", "headers"),
    [
        ("GET /health/live HTTP/1.0", "host: x"), ("GET /health/live HTTP/1.1", "accept: x"),
        ("GET /health/live HTTP/1.1", "host: x\r\nhost: y"), ("GET http://x/health/live HTTP/1.1", "host: x"),
        ("OPTIONS * HTTP/1.1", "host: x"), ("CONNECT x:443 HTTP/1.1", "host: x"),
        ("POST /v1/completions HTTP/1.1", "host: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked"),
    ],
    ids=["http/1.0", "no host", "two hosts", "absolute form", "asterisk", "authority form", "two lengths"],
)  # fmt: skip
def test_request_that_a_proxy_might_read_otherwise_is_refused_in_the_envelope(
    stack: Stack, request_line: str, headers: str
) -> None:
    answer = told(stack, f"{request_line}\r\n{headers}\r\naccept-language: ja\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 400") and b"connection: close" in answer
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert error["code"] == "invalid_http" and ("応答できません" in error["message"] or "can't be read" in error["message"])


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ("transfer-encoding: xchunked", b""), ("transfer-encoding: identity", b""), ("transfer-encoding: gzip, chunked", b"0\r\n\r\n"),
        ("transfer-encoding: chunked, identity", b""), ("transfer-encoding: chunked\r\ntransfer-encoding: chunked", b"0\r\n\r\n"),
        ("transfer-encoding: chunked", b"0x10\r\nx"), ("transfer-encoding: chunked", b"-1\r\nx"), ("transfer-encoding: chunked", b"ZZ\r\nx"),
        ("transfer-encoding: chunked", b"5\r\nhelloX\r\n"), ("transfer-encoding: chunked", b"FFFFFFFFFFFFFFFF\r\nx"),
        ("transfer-encoding: chunked", b"5\r\n{    \r\nFFFFFFFFFFFFFFFF\r\nx"), ("transfer-encoding: chunked", b"FFFFFFFFFFFFFFFFF\r\nx"),
        ("transfer-encoding: chunked", b"0\r\nhost: y\r\n\r\n"), ("content-length: 0x10", b""), ("content-length: -1", b""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("pieces", [1, 3], ids=["at once", "in pieces"])
def test_framing_that_is_none_is_400_in_the_envelope(stack: Stack, header: str, body: bytes, pieces: int) -> None:
    sent, size = post(stack, body, header), 1
    with connect(stack) as link:
        size = -(-len(sent) // pieces)
        for at in range(0, len(sent), size):
            link.sendall(sent[at : at + size])
            time.sleep(0.05 if pieces > 1 else 0)
        answer = b""
        while chunk := link.recv(65_536):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 400") and b"connection: close" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_http"


def test_chunks_of_any_size_in_pieces_of_any_size_make_one_body(stack: Stack) -> None:
    """A second request in the same packet too."""
    body = json.dumps(CHAT).encode()
    chunks = (
        b"".join(b"%x;part=%d\r\n%b\r\n" % (len(p), n, p) for n, p in enumerate((body[:1], body[1:40], body[40:]))) + b"0\r\n\r\n"
    )
    one = post(stack, chunks, "transfer-encoding: chunked")
    for size in (1, 7, 50, len(one), len(one) * 2):
        with connect(stack) as link:
            sent, answer = one * 2, b""
            for at in range(0, len(sent), size):
                link.sendall(sent[at : at + size])
            while answer.count(b'"usage"') < 2:
                more = link.recv(65_536)
                assert more, answer
                answer += more
        assert answer.count(b"HTTP/1.1 200") == 2, size


@pytest.mark.parametrize(
    "path", ["/v1/chat%2fcompletions", "/v1%2Fmodels", "/admin%2fv1%2fkeys", "/v1/%6dodels", "/v1/%2e%2e/metrics", "/v1%5cmodels"]
)
def test_path_in_disguise_is_refused(stack: Stack, path: str) -> None:
    method = "POST" if "chat" in path else "GET"
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {stack.admin_key}\r\ncontent-length: 0\r\n\r\n"
    answer = told(stack, head.encode())
    assert answer.startswith(b"HTTP/1.1 400") and b"invalid_http" in answer


def test_name_that_must_be_escaped_is_found(stack: Stack) -> None:
    with stack.client() as client:
        assert client.get("/admin/v1/versions/base%401").json()["version"] == "base@1"


@pytest.mark.parametrize(
    "kind",
    [
        None, "text/plain", "application/x-www-form-urlencoded", "application/xml", "multipart/form-data; boundary=x", "application/json; charset=utf-16",
        "application/json; charset=shift_jis", "application/jsonp", "json", "application/json, text/plain", "",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/tokenize", "/v1/batches", "/admin/v1/teams"])
def test_body_that_is_not_said_to_be_json_is_415(stack: Stack, path: str, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    with stack.client() as client:
        answer = client.post(path, content=json.dumps(CHAT).encode(), headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error.get("code")) == (415, "unsupported_type")


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=UTF-8", 'application/json;charset="utf-8"', "application/json; x=y"]
)
def test_json_is_json_however_it_is_spelled(stack: Stack, kind: str) -> None:
    with stack.client() as client:
        sent = json.dumps(CHAT).encode()
        assert client.post("/v1/chat/completions", content=sent, headers={"content-type": kind}).status_code == 200


@pytest.mark.parametrize("key", ["", "wrong"], ids=["too large", "no key"])
def test_client_that_is_refused_and_sends_on_is_not_read_for_long(stack: Stack, key: str) -> None:
    head = post(stack, b"", f"content-length: {10**12}").replace(
        stack.admin_key.encode(), key.encode() or stack.admin_key.encode()
    )
    sent, piece = 0, b"x" * 2**20
    with connect(stack, timeout=5) as link:
        link.sendall(head)
        assert link.recv(65_536).startswith(b"HTTP/1.1 401" if key else b"HTTP/1.1 413")
        try:
            while sent < 2**30:
                sent += link.send(piece)
        except OSError:  # it waits, or was cut
            pass
    assert sent < 64 * 2**20, "what a refused client sends was read without end"


@pytest.mark.parametrize(
    "headers",
    ["x: " + "y" * 200_000, "x: " + "y" * 70_000, "authorization: Bearer " + "y" * 123_000, "\r\n".join(f"x{n}: {'y' * 700}" for n in range(99)), "\r\n".join(f"x{n}: y" for n in range(101))],
    ids=["long", "a little", "token", "together", "many"],
)  # fmt: skip
def test_headers_beyond_measure_are_431(stack: Stack, headers: str) -> None:
    answer = told(stack, f"GET /health/live HTTP/1.1\r\nhost: x\r\n{headers}\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 431") and b"headers_too_large" in answer


def test_client_that_sends_its_headers_a_byte_at_a_time_is_ended(stack: Stack) -> None:
    """As a connection that says nothing at all; one that has had an answer may pause as long."""
    with connect(stack, timeout=20) as slow, connect(stack, timeout=20) as silent:
        began = time.monotonic()
        for byte in b"GET / HTTP":
            slow.sendall(bytes([byte]))
            time.sleep(0.5)
        assert slow.recv(65_536).startswith(b"HTTP/1.1 408") and slow.recv(1) == b""
        assert silent.recv(65_536).startswith(b"HTTP/1.1 408") and silent.recv(1) == b""
        assert 8 < time.monotonic() - began


def test_target_beyond_measure_is_431(stack: Stack) -> None:
    answer = told(stack, b"GET /health/live?" + b"x" * 70_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 431") and b"headers_too_large" in answer


def test_second_request_of_a_connection_has_the_same_bounds(stack: Stack) -> None:
    first = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"
    for second in (b"x: " + b"y" * 70_000, b"\r\n".join(b"x%d: y" % n for n in range(101))):
        with connect(stack) as link:
            link.sendall(first)
            assert link.recv(65_536).startswith(b"HTTP/1.1 200")
            link.sendall(first[:-2] + second + b"\r\n\r\n")
            assert link.recv(65_536).startswith(b"HTTP/1.1 431")


def test_two_authorization_headers_are_refused(stack: Stack) -> None:
    answer = told(stack, post(stack, b"{}", "authorization: Bearer x", "content-length: 2", "connection: close"))
    assert answer.startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer "])
def test_scheme_is_read_without_regard_to_case(stack: Stack, scheme: str) -> None:
    headers = {"authorization": f"{scheme} {stack.admin_key}"}
    assert httpx.get(f"{stack.url}/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "value", [b"Bearer\t%s", b"Bearer %s %s", b"Bearer %s,", b"%s", b"Basic %s", b"Bearer \xff\xfe", b"Bearer ' OR 1=1--"]
)
def test_authorization_that_is_no_bearer_key_is_401(stack: Stack, value: bytes) -> None:
    key = stack.admin_key.encode()
    line = b"authorization: " + value.replace(b"%s", key)
    answer = told(stack, b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + line + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 401") and key not in answer


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "FOO"])
def test_method_that_is_not_taken_is_405_in_the_envelope(stack: Stack, method: str) -> None:
    with stack.client() as client:
        response = client.request(method, "/v1/chat/completions")
    assert response.status_code in (400, 405)
    if method != "HEAD" and response.status_code == 405:
        assert response.json()["error"]["code"] == "method_not_allowed"


def test_websocket_is_refused(stack: Stack) -> None:
    upgrade = (
        "upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA=="
    )
    answer = told(stack, f"GET /v1/chat/completions HTTP/1.1\r\nhost: x\r\n{upgrade}\r\n\r\n".encode())
    assert answer[9:12] in (b"400", b"403", b"404", b"405")


def test_body_declared_too_long_is_refused_before_it_is_sent(stack: Stack) -> None:
    with connect(stack) as link:
        link.sendall(post(stack, b"", f"content-length: {10**12}"))
        assert link.recv(65_536).startswith(b"HTTP/1.1 413")


def test_chunked_body_above_the_limit_is_413(stack: Stack) -> None:
    def flood() -> Iterator[bytes]:
        for _ in range(64):
            yield b"x" * 65_536

    with stack.client() as client:
        try:
            assert client.post("/v1/chat/completions", content=flood(), headers=JSON).status_code == 413
        except httpx.WriteError:  # told and closed while the rest was still being sent
            pass


def test_requests_on_one_connection_are_answered_in_turn(stack: Stack) -> None:
    body = json.dumps(CHAT).encode()
    with connect(stack) as link:
        link.sendall(post(stack, body, f"content-length: {len(body)}") * 3)
        answer = b""
        while answer.count(b"HTTP/1.1 200") < 3 or answer.count(b'"usage"') < 3:
            answer += link.recv(65_536)
    assert answer.count(b"x-request-id") == 3


def test_client_that_sends_no_body_is_told_in_time_and_holds_nothing(stack: Stack) -> None:
    with connect(stack) as link:
        link.sendall(post(stack, b'{"model"', "content-length: 100"))
    assert stack.chat("talk").status_code == 200


def test_client_that_closes_its_sending_side_still_gets_its_answer_or_is_cut(stack: Stack) -> None:
    body = json.dumps(CHAT).encode()
    answer = told(stack, post(stack, body, f"content-length: {len(body)}"))
    assert answer == b"" or answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "name", ["x-forwarded-user", "x_forwarded_user", "x-real-ip", "x-forwarded-for", "x-sumika-version", "x-request-id", "cookie"]
)
def test_header_that_claims_something_is_not_believed(stack: Stack, name: str) -> None:
    claimed = httpx.get(f"{stack.url}/metrics", headers={name: "admin"})
    assert claimed.status_code == 401 and claimed.headers["x-request-id"] != "admin"


def test_hundred_requests_at_once_are_all_answered(stack: Stack) -> None:
    from concurrent.futures import ThreadPoolExecutor

    stack.script(chunk_delay_s=0.05)
    try:
        with stack.client() as client, ThreadPoolExecutor(20) as pool:
            statuses = list(pool.map(lambda _: client.post("/v1/chat/completions", json=CHAT).status_code, range(100)))
    finally:
        stack.script()
    assert set(statuses) == {200}


def test_hundred_clients_that_leave_let_go_of_everything(stack: Stack) -> None:
    import psutil

    gateway = psutil.Process(stack.role_pid("gateway"))
    body = json.dumps(CHAT | {"stream": True}).encode()
    request = post(stack, body, f"content-length: {len(body)}")
    stack.chat("talk")
    before = gateway.num_fds()
    stack.script(chunks=1000, chunk_delay_s=0.5)  # by themselves they would run for eight minutes
    try:
        links = []
        for _ in range(100):
            links.append(connect(stack))
            links[-1].sendall(request)
        engine = stack.engine_of(stack.version("base@1"))
        until(lambda: stack.running(engine) > 50, what="the streams run")
        for link in links:
            link.close()
        until(lambda: stack.running(engine) == 0, within=30, what="the engine stops generating")
    finally:
        stack.script()
    until(lambda: gateway.num_fds() <= before + 10, within=30, what="the descriptors are given back")


def test_answer_to_a_request_with_anything_wrong_is_short(stack: Stack) -> None:
    with stack.client() as client:
        for body in (
            {"x" * 100_000: 1},
            CHAT | {"model": "x" * 256},
            CHAT | {"temperature": "9" * 100_000},
            {"a": "\u202e" * 1000},
        ):
            response = client.post("/v1/chat/completions", json=body)
            assert response.status_code in (400, 404) and len(response.content) < 2_000
    time.sleep(0)
