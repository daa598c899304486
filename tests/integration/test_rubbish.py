"""An engine that speaks nonsense: the client is told that the engine failed, in time, and no half of an answer passes for a whole one."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import psutil
import pytest
from sqlalchemy import select

from sumika.models import schema
from tests.integration.conftest import Stack, finish, start, until

PATIENCE_S = 1.5
JSON, EVENTS = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n", "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
CHUNKED = "transfer-encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def rubbish(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    work = tmp_path_factory.mktemp("rubbish")
    stack = start(work, SUMIKA_GATEWAY__FIRST_BYTE_TIMEOUT_S=str(PATIENCE_S), SUMIKA_GATEWAY__IDLE_TIMEOUT_S=str(PATIENCE_S))
    stack.deploy("talk", stack.base())
    yield stack
    finish(stack)


@pytest.fixture(autouse=True)
def _serves_on(rubbish: Stack) -> Iterator[None]:
    yield
    rubbish.script()
    assert rubbish.chat("talk").status_code == 200
    assert "Traceback" not in rubbish.logs()


def chunk(text: str) -> str:
    return f"{len(text):x}\r\n{text}\r\n"


def sized(text: str) -> str:
    return f"content-length: {len(text)}\r\n\r\n{text}"


WHOLE = {
    "html": ("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n" + sized("<html>oops</html>"), 502),
    "no type": ("HTTP/1.1 200 OK\r\n" + sized("{}"), 502),
    "events in place of json": (EVENTS + sized("data: {}\n\n"), 502),
    "no json": (JSON + sized("Internal error"), 502),
    "half of json": (JSON + sized('{"id":"x","choices":[{"message":{"content":"se'), 502),
    "garbage in braces": (JSON + sized("{garbage}"), 502),
    "an empty object": (JSON + sized("{}"), 502),
    "wrong UTF-8": (JSON + sized('{"choices":"\xff\xfe"}'), 502),
    "an error with 200": (JSON + sized('{"error":{"message":"zq7marked","code":500}}'), 502),
    "a death with 200": (JSON + sized('{"error":{"message":"EngineCore encountered an issue. See stack trace","code":500}}'), 503),
    "another API's answer": (JSON + sized('{"object":"list","data":[]}'), 502),
    "wrong UTF-8 at length": (JSON + sized('{"choices":"\xff' + "x" * 2**20 + '"}'), 502),
    "nothing": (JSON + sized(""), 502),
    "broken off": (JSON + 'content-length: 500\r\n\r\n{"id":', 503),
    "chunks broken off": (JSON + CHUNKED + chunk('{"id":"x"'), 503),
    "status 999": ("HTTP/1.1 999 What\r\ncontent-type: application/json\r\n" + sized("{}"), 502),
    "status 204": ("HTTP/1.1 204 No Content\r\n\r\n", 502),
    "redirect": ("HTTP/1.1 307 Elsewhere\r\nlocation: http://127.0.0.1:1/\r\n" + sized(""), 502),
    "500 with a page": ("HTTP/1.1 500 Oops\r\ncontent-type: text/html\r\n" + sized("<pre>Traceback zq7marked"), 502),
    "400 that nests": ("HTTP/1.1 400 Bad\r\ncontent-type: application/json\r\n" + sized("[" * 60_000), 502),
    "400 with a list": ("HTTP/1.1 400 Bad\r\ncontent-type: application/json\r\n" + sized('{"error":["x"]}'), 502),
    "400 at length": ("HTTP/1.1 400 Bad\r\ncontent-type: application/json\r\n" + sized('{"error":{"message":"\\u0007' + "x" * 9_000 + '"}}'), 400),
    "no http": ("SSH-2.0-OpenSSH\r\n", 503),
    "a head without end": ("HTTP/1.1 200 OK\r\nx: " + "y" * 100_000, 503),
    "nothing at all": ("", 503),
    "two lengths": ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}", 503),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_answer_that_is_none_is_told_as_the_engines_failure(rubbish: Stack, name: str) -> None:
    text, status = WHOLE[name]
    rubbish.script(raw={"text": text})
    told = rubbish.chat("talk")
    assert told.status_code == status and told.headers["x-sumika-origin"] == "engine", told.text[:300]
    error = told.json()["error"]
    assert error["code"] in ("engine_failed", "engine_unreachable", "invalid_request")
    assert (
        not any(word in told.text for word in ("Traceback", "zq7marked"))
        and len(told.content) < 1_500
        and error["message"].isprintable()
    )


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("at 0x7f3a2b1c /usr/lib/python3/x.py", "at … …"),
        ("<vllm.x.Y object at 0x7F3A2B1C9D00> is no", "<vllm.x.Y object at …> is no"),
        ("see /usr/local/lib/vllm/a.py:312 or C:\\\\vllm\\\\b.py on 10.0.3.7:8000", "see … or … on …"),
        ("/v1/x and #/properties/a/b: temperature must be at most 2.0, not 3/4", "/v1/x and #/properties/a/b: temperature must be at most 2.0, not 3/4"),
        ('Traceback (most recent call last)\\n  File \\"/usr/x.py\\", line 3', "The engine can't take this request, and gives no reason that helps. Change it, or tell your administrator."),
    ],
)  # fmt: skip
def test_refusal_of_an_engine_tells_nothing_of_the_machine(rubbish: Stack, said: str, told: str) -> None:
    body = f'{{"error":{{"message":"{said}"}}}}'
    rubbish.script(raw={"text": "HTTP/1.1 400 Bad\r\ncontent-type: application/json\r\n" + sized(body)})
    answer = rubbish.chat("talk")
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, told)


@pytest.mark.parametrize(
    "text",
    ["", JSON + "content-length: 50\r\n\r\n", JSON + 'content-length: 50\r\n\r\n{"id":"x"'],
    ids=["silence", "head", "half"],
)
def test_engine_that_falls_silent_is_waited_for_no_longer_than_said(rubbish: Stack, text: str) -> None:
    rubbish.script(raw={"text": text, "then": "hang"})
    began = time.monotonic()
    told = rubbish.chat("talk")
    assert told.status_code == 504 and told.json()["error"]["code"] == "engine_timeout"
    assert time.monotonic() - began < PATIENCE_S + 2


EVENT = 'data: {"id":"x","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
STREAMS = {
    "silent in the middle": (EVENTS + CHUNKED + chunk(EVENT), "hang", "engine_timeout"),
    "silent after its head": (EVENTS + CHUNKED, "hang", "engine_timeout"),
    "ended without its end": (EVENTS + CHUNKED + chunk(EVENT) + "0\r\n\r\n", "close", "engine_unreachable"),
    "half an event": (EVENTS + CHUNKED + chunk(EVENT + 'data: {"id"') + "0\r\n\r\n", "close", "engine_unreachable"),
    "garbage in an event": (
        EVENTS + CHUNKED + chunk(EVENT) + chunk("data: {garbage}\n\n") + "0\r\n\r\n",
        "close",
        "engine_failed",
    ),
    "an empty event": (EVENTS + CHUNKED + chunk(EVENT) + chunk("data: {}\n\n") + "0\r\n\r\n", "close", "engine_failed"),
    "wrong UTF-8 in an event": (
        EVENTS + CHUNKED + chunk(EVENT) + chunk('data: {"a":"\xff\xfe"}\n\n') + "0\r\n\r\n",
        "close",
        "engine_failed",
    ),
    "not even events": (EVENTS + CHUNKED + chunk("<html>") + "0\r\n\r\n", "close", "engine_unreachable"),
    "chunks that lie": (EVENTS + CHUNKED + chunk(EVENT) + "ZZ\r\n", "close", "engine_unreachable"),
}


@pytest.mark.parametrize("name", STREAMS)
def test_stream_that_goes_wrong_ends_with_one_error_and_no_done(rubbish: Stack, name: str) -> None:
    text, then, code = STREAMS[name]
    rubbish.script(raw={"text": text, "then": then})
    began = time.monotonic()
    told = rubbish.chat("talk", stream=True)
    lines = [line for line in told.text.splitlines() if line.startswith("data:")]
    assert told.status_code == 200 and "[DONE]" not in told.text
    assert f'"code": "{code}"' in lines[-1] and sum('"error"' in line for line in lines) == 1
    assert time.monotonic() - began < PATIENCE_S + 2


def test_json_in_place_of_a_stream_is_told_before_anything_is_sent(rubbish: Stack) -> None:
    rubbish.script(raw={"text": JSON + sized("{}")})
    told = rubbish.chat("talk", stream=True)
    assert told.status_code == 502 and told.json()["error"]["code"] == "engine_failed"


def test_line_that_never_ends_is_cut_before_memory_is(rubbish: Stack) -> None:
    gateway = psutil.Process(rubbish.role_pid("gateway"))
    before = gateway.memory_info().rss
    rubbish.script(raw={"text": EVENTS + "\r\n" + "data: " + "x" * 2**20, "times": 64})
    told = rubbish.chat("talk", stream=True)
    assert '"code": "engine_unreachable"' in told.text and len(told.content) < 2_000
    assert gateway.memory_info().rss - before < 64 * 2**20


@pytest.mark.parametrize(
    "usage",
    ['{"prompt_tokens":Infinity,"completion_tokens":1}', '{"prompt_tokens":1e30,"completion_tokens":1}', '{"prompt_tokens":-5,"completion_tokens":-5}',
     '{"prompt_tokens":"5","completion_tokens":[]}', '{"prompt_tokens":5,"completion_tokens":5,"prompt_tokens_details":"x"}', '{"a":{"b":[]}}',
     '{"prompt_tokens":99999999999999999999999,"completion_tokens":1}'],
)  # fmt: skip
def test_usage_that_is_no_count_is_an_estimate_and_the_next_row_is_kept(rubbish: Stack, usage: str) -> None:
    rubbish.script(raw={"text": JSON + sized('{"id":"x","choices":[],"usage":' + usage + "}")})
    told = rubbish.chat("talk")
    assert told.status_code == 200
    rubbish.script()
    after = rubbish.chat("talk")

    def kept() -> bool:
        with rubbish.store.read() as connection:
            rows = {row.request: row.prompt_tokens for row in connection.execute(select(schema.usage))}
        return {told.headers["x-request-id"], after.headers["x-request-id"]} <= rows.keys() and all(
            0 <= (n or 0) < 2**31 for n in rows.values()
        )

    until(kept, within=10, what="both are counted")


def test_client_that_gets_half_of_a_long_answer_sees_that_it_is_half(rubbish: Stack) -> None:
    """What is longer than the gateway holds is under way when its engine breaks off: its length betrays it."""
    rubbish.script(raw={"text": JSON + f"content-length: {9 * 2**20}\r\n\r\n" + "{" + "x" * 2**20, "times": 1})
    rubbish.script(raw={"text": JSON + f"content-length: {9 * 2**20}\r\n\r\n" + "{" * (3 * 2**20)})
    with pytest.raises(httpx.RemoteProtocolError):
        rubbish.chat("talk")
