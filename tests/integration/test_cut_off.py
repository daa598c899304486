"""What an answer costs that its client did not wait for, and what is left of one whose gateway was killed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from sumika.models import schema
from tests.integration.conftest import Stack, until
from tests.integration.test_limits import limit

CHAT = {"model": "talk", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(scope="module", autouse=True)
def talk(stack: Stack) -> None:
    stack.deploy("talk", stack.base())


@pytest.fixture(autouse=True)
def _plain(stack: Stack) -> Iterator[None]:
    stack.script()
    yield
    stack.script()


def rows(stack: Stack, key: str, number: int) -> list[Any]:
    query = select(schema.usage).where(schema.usage.c.key == key, schema.usage.c.endpoint == "chat").order_by(schema.usage.c.at)

    def look() -> list[Any]:
        with stack.store.read() as connection:
            found = list(connection.execute(query))
        return found if len(found) >= number else []

    found: list[Any] = until(look, within=10, what=f"{number} rows")
    assert len(found) == number
    return found


def spent(stack: Stack, key: str) -> int:
    totals = schema.usage_totals
    with stack.store.read() as connection:
        found = connection.scalar(select(totals.c.tokens).where(totals.c.kind == "key", totals.c.name == key))
    return found or 0


def leave(stack: Stack, secret: str, **more: Any) -> None:
    """Ask for an answer in one piece, and be gone when the engine has worked for a moment."""
    with stack.client(secret) as client, pytest.raises(httpx.ReadTimeout):
        client.post("/v1/chat/completions", json=CHAT | more, timeout=1.0)


def test_answers_that_nobody_waits_for_use_up_a_budget(stack: Stack) -> None:
    secret, key = stack.new_key()
    limit(stack, "key", key, tokens_per_month=200_000)
    stack.script(chunks=1_000, chunk_delay_s=0.05)
    for _ in range(3):
        leave(stack, secret, n=7, max_tokens=5_000)
    found = rows(stack, key, 3)
    for row in found:
        assert (row.status, row.partial, row.estimated) == (499, True, True)
        assert 0.25 * 7 * 5_000 <= row.completion_tokens <= 7 * 5_000, (
            "a share of what was reserved at least, and never more than that"
        )
    stack.script()
    assert spent(stack, key) == sum(row.prompt_tokens + row.completion_tokens for row in found)
    limit(stack, "key", key, tokens_per_month=40_000)
    with stack.client(secret) as client:
        refused = client.post("/v1/chat/completions", json=CHAT | {"n": 7, "max_tokens": 5_000})
        assert refused.status_code == 429 and refused.json()["error"]["code"] == "insufficient_quota"
        assert client.post("/v1/chat/completions", json=CHAT | {"max_tokens": 50}).status_code == 200
    whole = rows(stack, key, 5)[-1]
    assert (whole.prompt_tokens, whole.completion_tokens, whole.partial, whole.estimated) == (5, 3, False, False)


@pytest.mark.parametrize("limited", [True, False])
def test_stream_that_is_left_counts_tokens_and_not_events(stack: Stack, limited: bool) -> None:
    """Four tokens an event, as with speculative decoding."""
    secret, key = stack.new_key()
    if limited:
        limit(stack, "key", key, tokens_per_minute=1_000_000)
    stack.script(chunks=40, chunk_delay_s=0.002, tokens_per_event=4)
    asked = CHAT | {"stream": True, "max_tokens": 1_000}
    with stack.client(secret) as client:
        for _ in range(1 if limited else 40):  # what an event stands for is learnt from whole answers
            whole = client.post("/v1/chat/completions", json=asked)
        assert b"usage" not in whole.content and whole.content.endswith(b"data: [DONE]\n\n")
        told = stack.asked(stack.version("base@1"))["body"]["stream_options"]
        assert told == {"include_usage": True} | ({"continuous_usage_stats": True} if limited else {})
        stack.script(chunks=500, chunk_delay_s=0.02, tokens_per_event=4)
        with client.stream("POST", "/v1/chat/completions", json=asked) as answer:
            seen = [line for line, _ in zip(answer.iter_lines(), range(40), strict=False) if line.startswith("data:")]
    cut = rows(stack, key, 2 if limited else 41)[-1]
    assert (cut.status, cut.partial, cut.estimated) == (499, True, not limited)
    assert (3 if limited else 2) * len(seen) <= cut.completion_tokens <= 1_000
    if limited:
        assert cut.completion_tokens % 4 == 0 and cut.prompt_tokens == 5


def test_stream_with_usage_asked_for_shows_it_once(stack: Stack) -> None:
    secret, key = stack.new_key()
    limit(stack, "key", key, tokens_per_minute=1_000_000)
    with stack.client(secret) as client:
        asked = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
        told = client.post("/v1/chat/completions", json=asked).content
    assert told.count(b'"usage"') == 1 and b'"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3' in told
    assert rows(stack, key, 1)[0].completion_tokens == 3


def test_stream_without_a_bound_costs_what_was_counted_however_long(stack: Stack) -> None:
    secret, key = stack.new_key()
    limit(stack, "key", key, tokens_per_month=200_000)
    stack.script(chunks=3_000)
    with stack.client(secret) as client, client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as answer:
        lines = (line for line in answer.iter_lines() if line.startswith("data: "))
        for _ in range(2_000):
            next(lines)
    (row,) = rows(stack, key, 1)
    assert row.partial and row.completion_tokens >= 1_990


@pytest.mark.parametrize("stream", [True, False])
def test_killed_gateway_leaves_a_row_of_what_it_was_answering(stack: Stack, stream: bool) -> None:
    secret, key = stack.new_key()
    gateway = stack.role_pid("gateway")
    stack.script(chunks=2_000, chunk_delay_s=0.02)
    killing = threading.Timer(2.5, os.kill, (gateway, signal.SIGKILL))  # journals have been turned over meanwhile
    with stack.client(secret) as client, pytest.raises(httpx.TransportError):
        killing.start()
        client.post("/v1/chat/completions", json=CHAT | {"max_tokens": 900, "stream": stream})
    row = rows(stack, key, 1)[0]
    assert (row.status, row.code, row.partial, row.estimated) == (500, "interrupted", True, True)
    assert row.prompt_tokens > 0 and 30 <= row.completion_tokens <= 1_024 and row.version == "base@1" and row.duration_ms > 500
    stack.script()
    until(lambda: _answers(stack), what="the gateway is back")


def _answers(stack: Stack) -> bool:
    try:
        return stack.served("talk") is not None
    except httpx.TransportError:
        return False
