"""Usage through a real gateway: every request once, whatever is killed meanwhile."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import httpx
from sqlalchemy import func, select

from sumika.models import schema
from tests.conftest import ROOT
from tests.integration.conftest import Stack, finish, free_port, start, until

CHAT = {"model": "talk", "messages": [{"role": "user", "content": "hello"}]}
# `make soak` sends 10,000.
REQUESTS = int(os.environ.get("SUMIKA_TEST_USAGE_REQUESTS", 3_000))
AT_ONCE = 16
KILLS = REQUESTS // 1_500
# What docs/usage.md promises.
WINDOW_S = 1.0


def usage(stack: Stack) -> list[Any]:
    with stack.store.read() as connection:
        return list(connection.execute(select(schema.usage).order_by(schema.usage.c.at)))


def counted(stack: Stack, number: int) -> list[Any]:
    found: list[Any] = until(lambda: len(rows := usage(stack)) >= number and rows, within=5, what=f"{number} rows")
    assert len(found) == number
    return found


def test_every_end_of_a_request_is_one_row(tmp_path: Path) -> None:
    stack = start(tmp_path)
    stack.deploy("talk", stack.base())
    secret, key = stack.new_key()
    with stack.client(secret) as client:
        client.post("/v1/chat/completions", json=CHAT)
        hidden = client.post("/v1/chat/completions", json=CHAT | {"stream": True})
        shown = client.post("/v1/completions", json={"model": "talk", "prompt": "x", "stream": True, "stream_options": {"include_usage": True}})  # fmt: skip
        client.post("/v1/chat/completions", json=CHAT | {"model": "nope"})
        client.post("/v1/chat/completions", json=CHAT | {"strange": 1})
        assert b'"usage"' not in hidden.content and hidden.content.endswith(b"data: [DONE]\n\n")
        assert b'"usage":{"prompt_tokens":5,"completion_tokens":3' in shown.content
        stack.script(chunks=500, chunk_delay_s=0.02)
        with client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as answer:
            for _, _ in zip(range(3), answer.iter_lines(), strict=False):
                pass
        stack.script(chunks=9, die_after_chunks=4)
        broken = client.post("/v1/chat/completions", json=CHAT | {"stream": True})
        assert "[DONE]" not in broken.text
    rows = counted(stack, 7)
    told = [
        (r.endpoint, r.alias, r.status, r.code, r.partial, r.prompt_tokens, r.cached_tokens, r.completion_tokens) for r in rows
    ]
    assert told[:5] == [
        ("chat", "talk", 200, "", False, 5, 2, 3), ("chat", "talk", 200, "", False, 5, 2, 3),
        ("completions", "talk", 200, "", False, 5, 2, 3), ("chat", "-", 404, "model_not_found", False, None, None, None),
        ("chat", "-", 400, "unknown_field", False, None, None, None),
    ]  # fmt: skip
    assert told[5][2:5] == (499, "", True) and told[5][5] > 0 and 1 <= told[5][7] < 500
    assert told[6][2:5] == (503, "engine_unreachable", True) and told[6][5] > 0 and told[6][7] == 4
    assert {r.key for r in rows} == {key} and {r.version for r in rows[:3]} == {"base@1"}
    assert all(r.request.startswith("req-") for r in rows)
    assert all(r.first_ms is not None and r.first_ms <= r.duration_ms for r in rows if r.status == 200)
    finish(stack)
    assert list(stack.settings.layout.usage.iterdir()) == [], "a gateway that ends in order leaves no journal"


class Gateway:
    """One gateway beside the stack's own, to be killed and started again."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.away: list[tuple[float, float]] = []
        self.start()

    def start(self) -> None:
        with self._stack.log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sumika.cli.main", "gateway", "--one"], env=self._stack.env | {"SUMIKA_PORT": str(self._port)},
                stdout=file, stderr=file, cwd=ROOT,
            )  # fmt: skip
        until(self._alive, what="the gateway answers")

    def kill_and_start(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        killed = time.monotonic()
        self.process.wait()
        self.start()
        self.away.append((killed, time.monotonic()))

    def age_at_kill(self, ended: float) -> float:
        """Seconds between an answer's end and the kill after it; what the client read while the gateway was away had come before."""
        return min(max(0.0, killed - ended) for killed, back in self.away if ended < back)

    def _alive(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/ready").status_code == 200
        except httpx.TransportError:
            return False


async def ask(session: aiohttp.ClientSession, url: str, number: int) -> str | None:
    """The id of a request that was answered to its end; None for one that was cut off."""
    try:
        async with session.post(f"{url}/v1/chat/completions", json=CHAT | {"stream": number % 2 == 0}) as answer:
            body = await answer.read()
            assert answer.status == 200 and (number % 2 or b"[DONE]" in body)
            return answer.headers["x-request-id"]
    except aiohttp.ClientError:
        return None


async def until_answered(gateway: Gateway, key: str, at: list[int]) -> dict[str, float]:
    """Ask until `REQUESTS` were answered, killing the gateway at the numbers in `at`: id -> when the answer had ended."""
    answered: dict[str, float] = {}
    back = asyncio.Event()
    back.set()

    async def keep_asking(session: aiohttp.ClientSession) -> None:
        while len(answered) < REQUESTS:
            await back.wait()
            if (request := await ask(session, gateway.url, len(answered))) is not None:
                answered[request] = time.monotonic()
            else:
                await asyncio.sleep(0.05)

    async def kill() -> None:
        for number in at:
            while len(answered) < number:
                await asyncio.sleep(0.005)
            back.clear()
            await asyncio.to_thread(gateway.kill_and_start)
            back.set()

    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as session:
        await asyncio.gather(kill(), *(keep_asking(session) for _ in range(AT_ONCE)))
    return answered


def test_thousands_of_requests_under_kill_lose_nothing_beyond_the_window(tmp_path: Path) -> None:
    stack = start(tmp_path)
    stack.deploy("talk", stack.base())
    secret, key = stack.new_key()
    gateway = Gateway(stack)
    at = sorted(random.Random(5).sample(range(500, REQUESTS - 500), KILLS))
    answered = asyncio.run(until_answered(gateway, secret, at))
    assert len(gateway.away) == KILLS
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(30) in (0, -signal.SIGTERM)  # uvicorn drains, then ends by the signal it was sent
    with stack.store.read() as connection:
        rows = list(connection.scalars(select(schema.usage.c.request).where(schema.usage.c.key == key)))
        total = connection.execute(
            select(schema.usage_totals.c.requests, schema.usage_totals.c.tokens).where(schema.usage_totals.c.name == key)
        ).one()
        tokens = connection.scalar(select(func.sum(schema.usage.c.prompt_tokens + schema.usage.c.completion_tokens)))
    assert len(rows) == len(set(rows))
    lost = answered.keys() - set(rows)
    ages = [gateway.age_at_kill(answered[request]) for request in lost]
    told = f"{len(answered)} answered, {len(rows)} rows, {len(lost)} lost, the oldest {max(ages, default=0):.3f} s before a kill"
    print(told)  # noqa: T201
    assert max(ages, default=0) < WINDOW_S, told
    assert len(lost) < len(answered) / 10, "the window is short"
    assert total == (len(rows), tokens)
    finish(stack)
