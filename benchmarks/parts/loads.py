"""Loads: as fast as some connections can, at a fixed rate, and many streams at the pace of people reading."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence

from parts.client import Answer, Client
from parts.places import Place

STREAMS, PACE = 256, 50


async def closed(place: Place, connections: int, requests: int, *, stream: bool = False) -> dict[str, float]:
    """Each connection asks again as soon as it is answered. Milliseconds (`first`: to the first byte of the body), requests/s and CPU by request."""
    client = Client(place.url, place.key, place.model)
    asked = client.request(stream=True, stream_options={"include_usage": True}) if stream else client.request()
    left, answers = iter(range(requests)), list[Answer]()

    async def go_on() -> None:
        for _ in left:
            answers.append(await client.ask(asked))

    before, began = place.spent(), time.perf_counter()
    await asyncio.gather(*(go_on() for _ in range(connections)))
    seconds = time.perf_counter() - began
    await asyncio.sleep(1.2)  # what is written of these requests, too
    after = place.spent()
    _check(place, answers)
    taken = [answer.total_s * 1000 for answer in answers]
    return {
        "requests/s": requests / seconds, "events/s": sum(answer.events for answer in answers) / seconds,
        "first ms": statistics.median(answer.first_byte_s * 1000 for answer in answers),
        "median ms": statistics.median(taken), "p99 ms": _part(taken, 0.99),
        "CPU ms": (after.own - before.own) / requests * 1000, "clerk ms": (after.beside - before.beside) / requests * 1000,
    }  # fmt: skip


async def at_rate(place: Place, rate: int, seconds: float) -> float:
    """The 95th percentile of the time to the first byte in ms, where requests come at `rate` a second whatever became of those before."""
    client = Client(place.url, place.key, place.model)
    asked, loop, tasks = client.request(), asyncio.get_running_loop(), list[asyncio.Task[Answer]]()
    began = loop.time()
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0, began + number / rate - loop.time()))
        tasks.append(asyncio.create_task(client.ask(asked)))
    answers = await asyncio.gather(*tasks)
    _check(place, answers)
    return _part([answer.first_byte_s * 1000 for answer in answers], 0.95)


async def at_reading_pace(place: Place, streams: int = STREAMS) -> dict[str, float]:
    """`streams` at once, `PACE` events a second each: how late an event comes, in ms, and the CPU of one."""
    client = Client(place.url, place.key, place.model)
    asked = client.request(stream=True, seed=PACE)

    async def later(number: int) -> Answer:
        await asyncio.sleep(number / streams)  # not all in the same moment
        return await client.ask(asked)

    before, began = place.spent(), time.perf_counter()
    answers = await asyncio.gather(*(later(number) for number in range(streams)))
    seconds, after = time.perf_counter() - began, place.spent()
    _check(place, answers)
    late = [one * 1000 for answer in answers for one in answer.late_s]
    return {
        "events/s": len(late) / seconds, "median ms": statistics.median(late), "p99 ms": _part(late, 0.99),
        "CPU us/event": (after.own - before.own) / len(late) * 1e6,
    }  # fmt: skip


def _check(place: Place, answers: Sequence[Answer]) -> None:
    wrong = [answer.status for answer in answers if answer.status != 200]
    assert not wrong, f"{place.name}: {len(wrong)} of {len(answers)} failed, the first with {wrong[0]}"


def _part(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]
