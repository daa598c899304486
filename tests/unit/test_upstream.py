"""The gateway's hold on engines and clients: no connection is left open, and nothing is cancelled once the work is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message

from sumika.serving import proxy
from sumika.serving.dialects import OPENAI
from sumika.serving.engine_errors import EngineError
from sumika.serving.proxy import Answer, ClientGone, Timeouts, Upstream, unless_gone

CHAT = "/v1/chat/completions"
WHOLE = b'{"id":"x","object":"chat.completion","choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3}}'


def answer_of(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


class Engine:
    """Answers the first request and closes the connection when the second comes; to a second connection it says nothing."""

    def __init__(self) -> None:
        self.connections = 0
        self.open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        first = self.connections == 1
        try:
            while await reader.read(65_536):
                if first:
                    writer.write(answer_of(WHOLE))
                    first = False
                elif self.connections == 1:
                    break
        except ConnectionError:
            pass
        finally:
            self.open -= 1
            writer.close()


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[tuple[Engine, str]]:
    made, socket = Engine(), str(tmp_path / "engine.sock")
    server = await asyncio.start_unix_server(made.serve, socket)
    yield made, socket
    server.close()


def answer(send: Any = None, *, is_stream: bool = False) -> Answer:
    async def nowhere(_: Message) -> None:
        pass

    return Answer({"headers": [], "path": CHAT}, send or nowhere, OPENAI, is_stream=is_stream, shows_usage=False)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("ends", ["first byte late", "client leaves"])
async def test_second_connection_is_closed_where_nobody_answers_on_it(engine: tuple[Engine, str], ends: str) -> None:
    made, socket = engine
    upstream = Upstream(Timeouts(first_byte_s=0.3 if ends == "first byte late" else 60, idle_s=5))
    await upstream.forward(socket, CHAT, b"", b"{}", answer())
    asking = asyncio.create_task(upstream.forward(socket, CHAT, b"", b"{}", answer()))
    await until(lambda: made.connections == 2)
    if ends == "client leaves":
        asking.cancel()
    with pytest.raises((EngineError, asyncio.CancelledError)):
        await asking
    await until(lambda: made.open == 0)
    upstream.close()


async def test_client_that_leaves_as_the_work_ends_cancels_nothing_after_it() -> None:
    left = asyncio.Event()

    async def receive() -> Message:
        await left.wait()
        return {"type": "http.disconnect"}

    async def request(turns: int) -> bool:
        left.clear()

        async def some_work() -> None:
            left.set()
            for _ in range(turns):
                await asyncio.sleep(0)  # in some of these the watch has ended, and its callback waits for its turn

        gone = False
        try:
            await unless_gone(receive, some_work())
        except ClientGone:
            gone = True
        for _ in range(5):
            await asyncio.sleep(0)  # as `Limiter.settle` waits for Valkey
        assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]
        return gone

    told = [await asyncio.create_task(request(turns)) for turns in range(8)]
    assert not told[0] and told[-1], "it ends before the client is seen to leave; and after"


async def test_work_that_ends_well_although_the_client_left_leaves_no_cancellation() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def stubborn() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise EngineError("engine_failed", "x", "x", status=502) from None

    async def request() -> None:
        with pytest.raises(EngineError):
            await unless_gone(receive, stubborn())
        await asyncio.sleep(0.01)
        assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]

    await asyncio.create_task(request())


async def test_cancellation_by_others_is_no_client_that_left() -> None:
    async def receive() -> Message:
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    task = asyncio.create_task(unless_gone(receive, asyncio.sleep(60)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_client_that_reads_a_little_now_and_then_does_not_keep_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece is read in time, but all together come more slowly than anybody reads."""
    monkeypatch.setattr(proxy, "_SLOWEST_READER", 1_000_000)

    async def slowly(_: Message) -> None:
        await asyncio.sleep(0.03)

    upstream, reading = Upstream(Timeouts(first_byte_s=1, idle_s=0.1)), answer(slowly)
    with pytest.raises(ClientGone):
        for _ in range(50):
            await upstream._pass_on(b"x" * 100, reading)
    assert 3 <= reading.sent_bytes // 100 <= 10
    quick = answer()
    for _ in range(50):
        await upstream._pass_on(b"x" * 100, quick)
