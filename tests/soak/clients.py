"""Clients of every kind, good and bad, and what each of their requests came to."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp

ALIASES = ("talk", "faq")
_TIMEOUT = aiohttp.ClientTimeout(total=60)


@dataclass(frozen=True)
class Ending:
    """One request: who was told what, and when. `request_id` None: not even headers came. Times are of the epoch."""

    kind: str
    request_id: str | None
    status: int
    began: float
    ended: float
    code: str = ""


@dataclass
class Clients:
    """A crowd that asks until `stop` is set."""

    url: str
    keys: list[str]
    seed: int
    endings: list[Ending] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    def told(self) -> Counter[tuple[str, int]]:
        return Counter((ending.kind, ending.status) for ending in self.endings)

    async def run(self, many: int) -> None:
        async with aiohttp.ClientSession(self.url, timeout=_TIMEOUT) as session:
            await asyncio.gather(*(self._one(session, random.Random(self.seed + number)) for number in range(many)))

    async def _one(self, session: aiohttp.ClientSession, chance: random.Random) -> None:
        kinds: list[tuple[str, Callable[..., Awaitable[tuple[int, str]]]]] = [
            ("whole", self._whole), ("whole", self._whole), ("stream", self._stream), ("stream", self._stream),
            ("leaves", self._leaves), ("bad", self._bad), ("long", self._long),
        ]  # fmt: skip
        while not self.stop.is_set():
            kind, ask = chance.choice(kinds)
            began, seen = time.time(), list[str]()
            try:
                status, code = await ask(session, chance, seen)
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                status, code = 0, type(error).__name__
            self.endings.append(Ending(kind, seen[0] if seen else None, status, began, time.time(), code))
            await asyncio.sleep(chance.uniform(0.02, 0.3))

    def _post(self, session: aiohttp.ClientSession, chance: random.Random, body: bytes) -> aiohttp.client._RequestContextManager:
        headers = {"authorization": f"Bearer {chance.choice(self.keys)}", "content-type": "application/json"}
        return session.post("/v1/chat/completions", data=body, headers=headers)

    async def _whole(
        self, session: aiohttp.ClientSession, chance: random.Random, seen: list[str], more: str = ""
    ) -> tuple[int, str]:
        async with self._post(session, chance, _body(chance, more)) as answer:
            seen.append(answer.headers["x-request-id"])
            told = await answer.json()
            return answer.status, "" if answer.status == 200 else told["error"]["code"]

    async def _long(self, session: aiohttp.ClientSession, chance: random.Random, seen: list[str]) -> tuple[int, str]:
        return await self._whole(session, chance, seen, "あ" * chance.randrange(100_000))

    async def _stream(self, session: aiohttp.ClientSession, chance: random.Random, seen: list[str]) -> tuple[int, str]:
        async with self._post(session, chance, _body(chance, stream=True)) as answer:
            seen.append(answer.headers["x-request-id"])
            text = (await answer.read()).decode()
            if answer.status != 200:
                return answer.status, json.loads(text)["error"]["code"]
            if text.endswith("data: [DONE]\n\n"):
                return 200, ""
            return 200, str(json.loads(text.rstrip().rpartition("data: ")[2])["error"]["code"])

    async def _leaves(self, session: aiohttp.ClientSession, chance: random.Random, seen: list[str]) -> tuple[int, str]:
        async with asyncio.timeout(chance.uniform(0.01, 0.3)), self._post(session, chance, _body(chance, stream=True)) as answer:
            seen.append(answer.headers["x-request-id"])
            await answer.content.readany()
            answer.close()
            return answer.status, "left"

    async def _bad(self, session: aiohttp.ClientSession, chance: random.Random, seen: list[str]) -> tuple[int, str]:
        bodies = [
            b"",
            b"{",
            b"[]",
            b'{"model":"talk"}',
            b'{"model":"gone","messages":[{"role":"user","content":"x"}]}',
            b'{"model":"talk","messages":[],"n":1e999}',
            b"\xff" * 100,
            _body(chance, stream=True, n=99),
        ]
        async with self._post(session, chance, chance.choice(bodies)) as answer:
            seen.append(answer.headers["x-request-id"])
            return answer.status, (await answer.json())["error"]["code"]


def _body(chance: random.Random, text: str = "", **more: object) -> bytes:
    alias = chance.choice(ALIASES)
    return json.dumps(
        {"model": alias, "messages": [{"role": "user", "content": f"hello {chance.random()} {text}"}]} | more
    ).encode()
