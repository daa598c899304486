"""Who is suspected of ending engines, who is refused, and who is cleared."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sumika.models.engines import EngineRow
from sumika.models.errors import SumikaError
from sumika.serving.process import ProcessId
from sumika.serving.quarantine import Quarantine
from sumika.serving.suspects import Suspects


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
    quarantine = Quarantine(Suspects(None, clock), clock)
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


async def test_same_text_many_times_at_one_engine_ended_one_engine() -> None:
    quarantine = Quarantine(Suspects(None))
    await dies_under(quarantine, *[b"same"] * 5)
    await goes(quarantine, b"same")


async def test_request_that_failed_at_an_engine_that_lives_is_no_suspect() -> None:
    quarantine = Quarantine(Suspects(None))
    row, process = engine()
    for _ in range(5):
        await quarantine.failed(b"x", row)
    await goes(quarantine, b"x")
    process.kill()
    process.wait()


async def test_request_that_is_answered_is_a_suspect_no_more() -> None:
    quarantine = Quarantine(Suspects(None))
    for _ in range(5):
        await dies_under(quarantine, b"bystander")
        await goes(quarantine, b"bystander")
        quarantine.answered(lambda: b"bystander")


async def test_suspects_go_one_after_another_and_others_at_once() -> None:
    quarantine = Quarantine(Suspects(None))
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


async def test_what_one_worker_saw_all_know(tmp_path: Path) -> None:
    file = tmp_path / "suspects"
    one, other = Quarantine(Suspects(file)), Quarantine(Suspects(file))
    await dies_under(one, b"kills")
    await goes(one, b"kills")
    await dies_under(other, b"kills")
    await goes(other, b"other")
    for worker in (one, other, Quarantine(Suspects(file))):
        with pytest.raises(SumikaError):
            await goes(worker, b"kills")
    assert b"kills" not in file.read_bytes()


async def test_who_is_cleared_by_one_worker_is_cleared_for_all(tmp_path: Path) -> None:
    file = tmp_path / "suspects"
    one, other = Quarantine(Suspects(file)), Quarantine(Suspects(file))
    for _ in range(3):
        await dies_under(one, b"bystander")
        await goes(one, b"x")
        await goes(other, b"bystander")
        other.answered(lambda: b"bystander")


def test_memory_of_suspects_stays_small_and_outlives_what_is_no_line_of_ours(tmp_path: Path) -> None:
    clock = Clock()
    clock.now = 10_000
    file = tmp_path / "suspects"
    one, other = Suspects(file, clock), Suspects(file, clock)
    for number in range(9_000):
        one.ran(number.to_bytes(32, "big"), ProcessId(number, "1.00"))
    assert file.stat().st_size < 2 * 2**20
    with file.open("ab") as lines:
        lines.write(b"nonsense\nran xyz 1 2 3\nran 00 1 2.00 \xff\nran " + b"ff" * 32 + b" 1 2.00 10000\nran half a li")
    other.refresh()
    one.refresh()
    newest = (8_999).to_bytes(32, "big")
    assert len(one) <= 4_096 and newest in one and newest in other and other.deaths(b"\xff" * 32) == 1
    clock.now += 601
    one.refresh()
    assert len(one) == 0
    assert Suspects(file, clock).deaths(newest) == 0
    file.unlink()
    one.refresh()
    assert one.ran(newest, ProcessId(1, "1.00"))
    other.refresh()
    assert other.deaths(newest) == 1


async def refused(quarantine: Quarantine, body: bytes, owner: str) -> bool:
    try:
        async with quarantine.turn(lambda: body, owner):
            return False
    except SumikaError as error:
        assert error.code == "request_quarantined"
        return True


async def ends_two_engines(quarantine: Quarantine, body: bytes, owner: str) -> None:
    for _ in range(2):
        row, process = engine()
        await quarantine.failed(body, row, owner)
        process.kill()
        process.wait()


async def test_who_ends_engines_has_nobody_elses_question_refused(tmp_path: Path) -> None:
    file = tmp_path / "suspects"
    one, other = Quarantine(Suspects(file)), Quarantine(Suspects(file))
    await ends_two_engines(one, "有給休暇は何日?".encode(), "team:evil")
    await refused(other, b"x", "team:x")  # it looks at the file
    for worker in (one, other):
        assert await refused(worker, "有給休暇は何日?".encode(), "team:evil")
        assert not await refused(worker, "有給休暇は何日?".encode(), "team:hr")
    assert "有給休暇" not in file.read_text()


async def test_body_that_another_was_answered_since_is_refused_to_nobody(tmp_path: Path) -> None:
    file = tmp_path / "suspects"
    one, other = Quarantine(Suspects(file)), Quarantine(Suspects(file))
    await ends_two_engines(one, b"faq", "team:a")
    assert await refused(one, b"faq", "team:a")
    other.answered(lambda: b"other")
    assert await refused(other, b"faq", "team:a"), "an answer to something else clears nothing"
    other.answered(lambda: b"faq")
    for worker in (other, one):
        assert not await refused(worker, b"x", "team:a")
        assert not await refused(worker, b"faq", "team:a")
