"""Limits and fair queueing through a real gateway."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest

from sumika.models import engines, limits, teams
from sumika.models.store import revision
from sumika.models.usage.table import Kind
from tests.integration.conftest import Stack, finish, start, until

CHAT = {"model": "talk", "messages": [{"role": "user", "content": "hello"}]}


def limit(stack: Stack, kind: Kind, name: str, **changes: Any) -> None:
    """Set, and known to the gateway."""
    with stack.store.write() as connection:
        limits.set_limits(connection, (kind, name), changes)
    with stack.store.read() as connection:
        now = revision(connection)

    def seen() -> bool:
        with stack.store.read() as connection:
            return all(row.seen_revision >= now for row in engines.list_gateways(connection))

    until(seen, what="the gateway knows the limits")


def team_key(stack: Stack, team: str) -> str:
    with stack.store.write() as connection:
        teams.create(connection, team, team)
    return stack.new_key(team=team)[0]


def test_limits_are_told_kept_and_settled(stack: Stack) -> None:
    stack.deploy("talk", stack.base())
    secret, key = stack.new_key()
    other, _ = stack.new_key()
    limit(stack, "key", key, requests_per_minute=4, tokens_per_minute=2000, streams=2)
    with stack.client(secret) as client:
        client.post("/v1/chat/completions", json=CHAT | {"max_tokens": 50})
        told = client.post("/v1/chat/completions", json=CHAT | {"max_tokens": 50}).headers
        assert told["x-ratelimit-limit-tokens"] == "2000" and told["x-ratelimit-limit-requests"] == "4"
        # The one before was settled: 8 tokens, not what its prompt and its 50 might have been.
        assert 2000 - int(told["x-ratelimit-remaining-tokens"]) < 8 + 50 + 40
        assert told["x-ratelimit-reset-tokens"].endswith("s")
        for _ in range(9):
            last = client.post("/v1/chat/completions", json=CHAT)
        assert last.status_code == 429 and last.json()["error"]["code"] == "rate_limit_exceeded"
        assert last.json()["error"]["type"] == "rate_limit_error" and 1 <= int(last.headers["retry-after"]) <= 120
        assert last.headers["x-ratelimit-remaining-requests"] == "0"
    assert stack.chat("talk").status_code == 200
    with stack.client(other) as client:
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200
    with pytest.raises(openai.RateLimitError) as error:
        openai.OpenAI(base_url=f"{stack.url}/v1", api_key=secret, max_retries=0).chat.completions.create(**CHAT)  # type: ignore[call-overload]
    assert error.value.code == "rate_limit_exceeded"


def test_a_stream_holds_its_place_until_it_ends_or_the_client_leaves(stack: Stack) -> None:
    stack.deploy("talk", stack.base())
    secret, key = stack.new_key()
    limit(stack, "key", key, streams=1)
    stack.script(chunks=400, chunk_delay_s=0.02)
    with stack.client(secret) as client:
        with client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as answer:
            lines = answer.iter_lines()  # httpx leaves when this is forgotten
            next(lines)
            with stack.client(secret) as second:
                assert second.post("/v1/completions", json={"model": "nope", "prompt": "x"}).status_code == 404
                refused = second.post("/v1/chat/completions", json=CHAT)
            assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
        stack.script()
        until(lambda: client.post("/v1/chat/completions", json=CHAT).status_code == 200, within=5, what="the place is free again")


def test_a_budget_that_is_used_is_refused_and_a_larger_one_helps(stack: Stack) -> None:
    stack.deploy("talk", stack.base())
    secret, key = stack.new_key()
    limit(stack, "key", key, tokens_per_month=100)
    with stack.client(secret, **{"accept-language": "ja"}) as client:
        told = []
        for _ in range(12):
            told.append(client.post("/v1/chat/completions", json=CHAT | {"max_tokens": 20}))
            time.sleep(0.05)
        codes = [answer.status_code for answer in told]
        assert codes == sorted(codes) and codes[0] == 200 and codes[-1] == 429
        assert told[-1].json()["error"]["code"] == "insufficient_quota" and "月間上限" in told[-1].json()["error"]["message"]
        time.sleep(2.5)  # what was used comes from the table now
        assert client.post("/v1/chat/completions", json=CHAT | {"max_tokens": 60}).status_code == 429
        limit(stack, "key", key, tokens_per_month=10_000)
        until(lambda: client.post("/v1/chat/completions", json=CHAT | {"max_tokens": 60}).status_code == 200, within=5)


async def ask(session: aiohttp.ClientSession, stack: Stack, key: str, **headers: str) -> float:
    """Seconds that one answer took."""
    began = time.monotonic()
    sent = {"authorization": f"Bearer {key}"} | headers
    async with session.post(f"{stack.url}/v1/chat/completions", json=CHAT, headers=sent) as answer:
        assert answer.status == 200, await answer.text()
        await answer.read()
    return time.monotonic() - began


@pytest.mark.parametrize("flood", ["batch", "interactive"])
def test_500_requests_of_one_team_do_not_starve_another(tmp_path: Path, flood: str) -> None:
    stack = start(tmp_path, SUMIKA_GATEWAY__MAX_RUNNING_PER_ENGINE="4")
    version = stack.base()
    stack.deploy("talk", version)
    greedy, modest = team_key(stack, "greedy"), team_key(stack, "modest")
    stack.script(chunks=3, chunk_delay_s=0.1)
    service_s = 0.3

    async def both() -> list[float]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            flooding = [asyncio.create_task(ask(session, stack, greedy, **{"x-sumika-priority": flood})) for _ in range(500)]
            await asyncio.sleep(4)
            assert stack.running(stack.engine_of(version)) == 4
            taken = [await ask(session, stack, modest) for _ in range(5)]
            done = sum(task.done() for task in flooding)
            assert 40 <= done < 150, "the flood goes on too, four at a time"
            for task in flooding:
                task.cancel()
            await asyncio.gather(*flooding, return_exceptions=True)
        return taken

    taken = asyncio.run(both())
    assert max(taken) < 4 * service_s, taken
    with stack.client() as client:
        until(lambda: "sumika_requests_queued 0.0" in client.get("/metrics").text, within=5, what="who left waits no more")
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200
        assert client.post("/v1/chat/completions", json=CHAT, headers={"x-sumika-priority": "top"}).status_code == 400
    finish(stack)
