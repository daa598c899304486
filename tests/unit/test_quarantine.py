"""Who is suspected of ending engines, who is refused, and who is cleared."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import pytest

from sumika.models.engines import EngineRow
from sumika.models.errors import SumikaError
from sumika.serving.process import ProcessId
from sumika.serving.quarantine import Quarantine


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def engine() -> tuple[EngineRow, subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    known = ProcessId.of(process.pid)
    return EngineRow("e", 1, "socket", "ready", known.pid, known.started, (), 0, None, ""), process


async def dies_under(quarantine: Quarantine, *bodies: bytes) -> None:
    row, process = engine()
    for body in bodies:
        await quarantine.failed(body, row)
    process.kill()
    process.wait()


async def goes(quarantine: Quarantine, body: bytes) -> None:
    async with quarantine.turn(lambda: body):
        pass


async def test_request_under_which_two_engines_ended_is_refused_and_in_time_no_more() -> None:
    clock = Clock()
    quarantine = Quarantine(clock)
    await dies_under(quarantine, b"kills")
    await goes(quarantine, b"kills")
    await dies_under(quarantine, b"kills")
    with pytest.raises(SumikaError) as refused:
        await goes(quarantine, b"kills")
    assert (refused.value.code, refused.value.status) == ("request_quarantined", 400)
    assert "管理者" in refused.value.ja and "10 minutes" in refused.value.en
    await goes(quarantine, b"other")
    clock.now = 599
    with pytest.raises(SumikaError):
        await goes(quarantine, b"kills")
    clock.now = 601
    await goes(quarantine, b"kills")


async def test_request_that_failed_at_an_engine_that_lives_is_no_suspect() -> None:
    quarantine = Quarantine()
    row, process = engine()
    for _ in range(5):
        await quarantine.failed(b"x", row)
    await goes(quarantine, b"x")
    process.kill()
    process.wait()


async def test_request_that_is_answered_is_a_suspect_no_more() -> None:
    quarantine = Quarantine()
    for _ in range(5):
        await dies_under(quarantine, b"bystander")
        await goes(quarantine, b"bystander")
        quarantine.answered(lambda: b"bystander")


async def test_suspects_go_one_after_another_and_others_at_once() -> None:
    quarantine = Quarantine()
    await dies_under(quarantine, b"a", b"b")
    order: list[str] = []

    async def runs(body: bytes, seconds: float) -> None:
        async with quarantine.turn(lambda: body):
            order.append(f"{body.decode()} begins")
            await asyncio.sleep(seconds)
            order.append(f"{body.decode()} ends")

    began = time.monotonic()
    await asyncio.gather(runs(b"a", 0.2), runs(b"b", 0.1), runs(b"c", 0.0))
    assert order == ["a begins", "c begins", "c ends", "a ends", "b begins", "b ends"]
    order.clear()
    await asyncio.gather(runs(b"a", 2.5), runs(b"b", 0.0))
    assert order == ["a begins", "b begins", "b ends", "a ends"] and time.monotonic() - began < 5, (
        "a long one keeps nobody waiting"
    )
