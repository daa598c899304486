"""How long the gateway waits, with its timeouts set short: for the engine, for a body, for a slow reader."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import httpx
import pytest

from tests.integration.conftest import Stack, finish, start, until

CHAT = {"model": "talk", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = start(
        tmp_path_factory.mktemp("hasty"),
        SUMIKA_GATEWAY__FIRST_BYTE_TIMEOUT_S="2",
        SUMIKA_GATEWAY__IDLE_TIMEOUT_S="1",
        SUMIKA_GATEWAY__BODY_TIMEOUT_S="1",
    )
    stack.deploy("talk", stack.base())
    yield stack
    stack.script()
    finish(stack)


@pytest.fixture(autouse=True)
def _quick_again(hasty: Stack) -> Iterator[None]:
    yield
    hasty.script()
    until(lambda: hasty.chat("talk").status_code == 200, what="serving goes on")


def test_engine_that_does_not_begin_to_answer_is_504_and_let_go(hasty: Stack) -> None:
    hasty.script(chunks=10, chunk_delay_s=1)
    response = hasty.chat("talk")
    assert (response.status_code, response.json()["error"]["code"]) == (504, "engine_timeout")
    engine = hasty.engine_of(hasty.version("base@1"))
    until(lambda: hasty.running(engine) == 0, within=5, what="the engine stops generating")


def test_stream_that_stalls_ends_with_one_error_event(hasty: Stack) -> None:
    hasty.script(chunks=3, chunk_delay_s=4)
    with hasty.client() as client, client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as response:
        lines = [line for line in response.iter_lines() if line]
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "engine_timeout"
    assert not any("[DONE]" in line for line in lines)


def test_body_that_does_not_come_is_408(hasty: Stack) -> None:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {hasty.admin_key}\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n"
    with socket.create_connection((hasty.settings.host, hasty.settings.port), timeout=15) as link:
        link.sendall(head.encode() + b'{"model"')
        answer = b""
        while b"body_timeout" not in answer and (more := link.recv(65_536)):
            answer += more
    assert answer.startswith(b"HTTP/1.1 408") and b"body_timeout" in answer


def test_reader_that_stops_reading_ends_its_generation(hasty: Stack) -> None:
    engine = hasty.engine_of(hasty.version("base@1"))
    hasty.script(chunks=1_000_000)
    body = json.dumps(CHAT | {"stream": True})
    request = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {hasty.admin_key}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n{body}"
    )
    with socket.socket() as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.connect((hasty.settings.host, hasty.settings.port))
        link.sendall(request.encode())
        until(lambda: hasty.running(engine) == 1, what="the stream runs")
        until(lambda: hasty.running(engine) == 0, within=15, what="the slow reader is let go")


def test_timeouts_do_not_touch_a_stream_that_flows(hasty: Stack) -> None:
    hasty.script(chunks=10, chunk_delay_s=0.4)
    with hasty.client() as client, client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as response:
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]" and len(lines) == 11


def test_error_in_a_stream_reaches_the_official_client_as_an_error(hasty: Stack) -> None:
    import openai

    hasty.script(chunks=3, chunk_delay_s=4)
    client = openai.OpenAI(
        base_url=f"{hasty.url}/v1", api_key=hasty.admin_key, max_retries=0, http_client=httpx.Client(timeout=30)
    )
    stream = client.chat.completions.create(model="talk", messages=[{"role": "user", "content": "hi"}], stream=True)
    with pytest.raises(openai.APIError, match="in time"):
        for _ in stream:
            pass
