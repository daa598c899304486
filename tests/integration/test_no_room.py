"""Base swaps where memory does not hold old and new: what can be held is held, what can't is refused with the numbers."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from sumika.models import moves, scales
from sumika.models.moves import Move
from tests.integration.conftest import Stack, finish, start, until
from tests.integration.test_swaps import stream_text

# One fake engine plans 1 GiB of cache and 2 of runtime.
ONE, TWO = "3.5", "6.5"


def step_of(stack: Stack, move: Move) -> str:
    with stack.store.read() as connection:
        return moves.get(connection, move.id).step


def test_requests_wait_while_the_base_is_changed_and_none_is_lost(tmp_path: Path) -> None:
    stack = start(tmp_path, SUMIKA_ENGINE__MEMORY_GIB=ONE)
    old, new = stack.base("one", seed=1), stack.base("two", seed=2)
    stack.deploy("talk", old)
    stack.script(chunks=15, chunk_delay_s=0.1)

    async def during() -> tuple[str, list[str]]:
        running = asyncio.create_task(stream_text(stack, "talk"))
        await asyncio.sleep(0.5)
        move = await asyncio.to_thread(stack.ask, "talk", new)
        await asyncio.to_thread(until, lambda: step_of(stack, move) == "holding", what="the old base makes room")
        stack.script(start_delay_s=1.0)
        waiting = [asyncio.create_task(stream_text(stack, "talk")) for _ in range(8)]
        await asyncio.sleep(0.3)
        assert not any(task.done() for task in waiting), "they wait"
        assert (await asyncio.to_thread(stack.ended, move)).state == "done"
        return await running, await asyncio.gather(*waiting)

    first, later = asyncio.run(during())
    assert first.split()[0] == str(old.ref) and len(first.split()) == 15, "what ran on the old base ended whole"
    assert {text.split()[0] for text in later} == {str(new.ref)}
    assert [e.base_id for e in stack.engines()] == [new.id]
    finish(stack)


def test_new_base_that_does_not_start_brings_the_old_one_back_to_those_who_wait(tmp_path: Path) -> None:
    stack = start(tmp_path, SUMIKA_ENGINE__MEMORY_GIB=ONE)
    old, bad = stack.base("one", seed=1), stack.base("two", seed=2)
    stack.deploy("talk", old)
    stack.script(refuse_start=str(bad.ref))

    async def during() -> tuple[Move, list[str]]:
        move = await asyncio.to_thread(stack.ask, "talk", bad)
        await asyncio.to_thread(until, lambda: step_of(stack, move) in ("holding", "returning"), what="the old base makes room")
        waiting = [asyncio.create_task(stream_text(stack, "talk")) for _ in range(4)]
        return await asyncio.to_thread(stack.ended, move), await asyncio.gather(*waiting)

    move, texts = asyncio.run(during())
    assert move.state == "refused" and move.error is not None and "out of memory while loading" in move.error["en"]
    assert {text.split()[0] for text in texts} == {str(old.ref)}, "nobody was refused"
    finish(stack)


def test_those_who_wait_are_bounded_in_number_and_time(tmp_path: Path) -> None:
    stack = start(
        tmp_path, SUMIKA_ENGINE__MEMORY_GIB=ONE, SUMIKA_GATEWAY__MAX_HELD="2", SUMIKA_GATEWAY__HOLD_TIMEOUT_S="1.5"
    )  # fmt: skip
    old, new = stack.base("one", seed=1), stack.base("two", seed=2)
    stack.deploy("talk", old)
    stack.script(start_delay_s=6)
    move = stack.ask("talk", new)
    until(lambda: step_of(stack, move) == "holding", what="the old base makes room")
    until(lambda: not any(e.base_id == old.id for e in stack.engines()), what="the old one is gone")

    async def three() -> list[tuple[str, float]]:
        async def one() -> tuple[str, float]:
            began = time.monotonic()
            response = await asyncio.to_thread(stack.chat, "talk")
            assert response.status_code == 503 and int(response.headers["retry-after"]) > 0
            return response.json()["error"]["code"], time.monotonic() - began

        return await asyncio.gather(*(one() for _ in range(3)))

    told = sorted(asyncio.run(three()))
    assert [code for code, _ in told] == ["too_many_waiting", "waited_too_long", "waited_too_long"]
    assert told[1][1] >= 1.5 and told[2][1] >= 1.5
    assert stack.ended(move).state == "done"
    stack.script()
    finish(stack)


def test_base_that_never_fits_or_would_cost_others_theirs_is_refused_with_the_numbers(tmp_path: Path) -> None:
    stack = start(tmp_path, SUMIKA_ENGINE__MEMORY_GIB=ONE)
    old, new = stack.base("one", seed=1), stack.base("two", seed=2)
    stack.deploy("talk", old)
    stack.deploy("also", old)
    for alias in ("talk", "third"):
        move = stack.ended(stack.ask(alias, new))
        assert move.state == "refused" and move.error is not None and move.error["code"] == "no_room"
        assert "3.0 GiB" in move.error["en"] and "3.5 GiB" in move.error["en"], move.error["en"]
    assert stack.chat("talk").headers["x-sumika-version"] == stack.chat("also").headers["x-sumika-version"] == str(old.ref)
    until(lambda: [e.base_id for e in stack.engines()] == [old.id], what="nothing half-made is left")
    finish(stack)


def test_swap_of_a_base_with_two_engines_rolls_and_nobody_waits(tmp_path: Path) -> None:
    stack = start(tmp_path, SUMIKA_ENGINE__MEMORY_GIB=TWO)
    old, new = stack.base("base", seed=1), stack.base("base", seed=2)
    stack.deploy("talk", old)
    with stack.store.write() as connection:
        scales.put(connection, "base", 2, actor="test")
    until(lambda: len([e for e in stack.engines() if e.state == "ready"]) == 2, what="two engines")
    stack.script(start_delay_s=1.5)
    move = stack.ask("talk", new)
    until(lambda: step_of(stack, move) == "rolling", what="one engine makes room")
    meanwhile = set()
    while step_of(stack, move) == "rolling":
        response = stack.chat("talk")
        assert response.status_code == 200
        meanwhile.add(response.headers["x-sumika-version"])
    stack.script()
    assert stack.ended(move).state == "done"
    assert str(old.ref) in meanwhile, "the other old engine answered; who waits is answered by the new one"
    until(
        lambda: [e.base_id for e in stack.engines() if e.state == "ready"] == [new.id] * 2,
        what="both engines serve the new version",
    )
    finish(stack)


@pytest.mark.parametrize("process", ["supervise", "gateway", "engine"])
@pytest.mark.parametrize("step", ["draining", "starting"])
def test_change_with_a_process_killed_ends_in_one_version(tmp_path: Path, step: str, process: str) -> None:
    stack = start(tmp_path, SUMIKA_ENGINE__MEMORY_GIB=ONE)
    old, new = stack.base("one", seed=1), stack.base("two", seed=2)
    stack.deploy("talk", old)
    pid = stack.engine_of(old).pid
    assert pid is not None
    stack.script(chunks=15, chunk_delay_s=0.1, start_delay_s=1.5)
    if step == "draining":  # a long answer keeps the old engine
        assert begun(stack)
    move = stack.ask("talk", new)
    until(lambda: step_of(stack, move) == "holding", what="the old base makes room")
    if step == "starting":
        pid = until(
            lambda: next((e.pid for e in stack.engines() if e.base_id == new.id and e.pid), None), what="the new engine starts"
        )
    os.kill(pid if process == "engine" else stack.role_pid(process), signal.SIGKILL)
    stack.script()
    ended = stack.ended(move, within=60)
    now = new if ended.state == "done" else old

    def answered() -> str | None:
        try:
            return stack.chat("talk").headers.get("x-sumika-version")
        except httpx.TransportError:
            return None

    until(lambda: answered() == str(now.ref), within=60, what=f"talk answers as {now.ref}")
    until(lambda: [e.base_id for e in stack.engines()] == [now.id], what="one engine is left")
    finish(stack)


def begun(stack: Stack) -> bool:
    """A stream has begun on the old engine; its client reads on in the background until the gateway ends it."""
    code = (
        "import httpx,sys\n"
        "with httpx.stream('POST', sys.argv[1] + '/v1/chat/completions', headers={'authorization': 'Bearer ' + sys.argv[2]},\n"
        "  json={'model': 'talk', 'stream': True, 'messages': [{'role': 'user', 'content': 'x'}]}, timeout=30) as r:\n"
        "    for _ in r.iter_lines(): print('.', flush=True)\n"
    )
    reader = subprocess.Popen(
        [sys.executable, "-c", code, stack.url, stack.admin_key], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert reader.stdout is not None
    return reader.stdout.readline() == b".\n"
