"""Moves of aliases under traffic: nobody loses an answer, and what is not proven never serves."""

from __future__ import annotations

import asyncio
import time

import openai

from sumika.models import aliases, differences, moves
from sumika.models.registry import Version
from tests.integration.conftest import Stack, until


async def stream_text(stack: Stack, alias: str) -> str:
    async with openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key=stack.admin_key, max_retries=0) as client:
        stream = await client.chat.completions.create(model=alias, messages=[{"role": "user", "content": "x"}], stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


def loaded(stack: Stack, version: Version) -> tuple[str, ...]:
    return stack.engine_of(version).adapters


async def test_swap_during_a_stream_ends_the_stream_on_its_own_version(stack: Stack) -> None:
    base = stack.base()
    first, second, third = (stack.adapter("faq", base, seed=seed, proven=True) for seed in (1, 2, 3))
    await asyncio.to_thread(stack.deploy, "faq", first)
    stack.script(chunks=20, chunk_delay_s=0.1)
    old = asyncio.create_task(stream_text(stack, "faq"))
    await asyncio.sleep(0.5)
    await asyncio.to_thread(stack.deploy, "faq", second)
    assert str(first.ref) in loaded(stack, first), "unloaded under a running stream"
    stack.script()
    assert (await stream_text(stack, "faq")).startswith(str(second.ref))
    text = await old
    assert text.startswith(str(first.ref)) and len(text.split()) == 20
    assert loaded(stack, first) == (str(first.ref), str(second.ref)), "the version before stays ready for a rollback"
    await asyncio.to_thread(stack.deploy, "faq", third)
    until(lambda: loaded(stack, first) == (str(second.ref), str(third.ref)), what="what nobody would come back to is unloaded")


async def test_adapter_that_nobody_would_come_back_to_is_unloaded_only_after_its_last_stream(stack: Stack) -> None:
    base = stack.base()
    versions = [stack.adapter("slow", base, seed=seed, proven=True) for seed in (41, 42, 43)]
    await asyncio.to_thread(stack.deploy, "slow", versions[0])
    stack.script(chunks=40, chunk_delay_s=0.1)
    old = asyncio.create_task(stream_text(stack, "slow"))
    await asyncio.sleep(0.5)
    for version in versions[1:]:
        await asyncio.to_thread(stack.deploy, "slow", version)
    stack.script()
    assert not old.done() and str(versions[0].ref) in loaded(stack, base), "unloaded under a running stream"
    text = await old
    assert text.startswith(str(versions[0].ref)) and len(text.split()) == 40
    until(lambda: str(versions[0].ref) not in loaded(stack, base), what="the old adapter is unloaded")


def test_swap_under_load_loses_no_request(stack: Stack) -> None:
    base = stack.base()
    versions = [stack.adapter("busy", base, seed=seed, proven=True) for seed in (11, 12)]
    stack.deploy("busy", versions[0])
    names, answered, stop = {str(v.ref) for v in versions}, [], False

    async def ask() -> None:
        while not stop:
            answered.append((await stream_text(stack, "busy")).split()[0])

    async def swap() -> None:
        nonlocal stop
        try:
            for turn in range(6):
                await asyncio.to_thread(stack.deploy, "busy", versions[(turn + 1) % 2])
                await asyncio.to_thread(until, lambda count=4 * (turn + 1): len(answered) >= count, what="answers between swaps")
        finally:
            stop = True

    async def both() -> None:
        await asyncio.gather(swap(), *(ask() for _ in range(4)))

    asyncio.run(both())
    assert len(answered) > 20 and set(answered) == names


def test_rollback_serves_the_version_before(stack: Stack) -> None:
    base = stack.base()
    first, second = stack.adapter("back", base, seed=3), stack.adapter("back", base, seed=4)
    stack.deploy("back", first)
    stack.deploy("back", second)
    with stack.store.write() as connection:
        move = aliases.ask_rollback(connection, "back", actor="test", reason="worse answers")
    assert stack.ended(move).state == "done"
    until(lambda: stack.served("back") == str(first.ref))
    with stack.store.read() as connection:
        newest = moves.history(connection, "back")[0]
    assert (newest.kind, newest.reason, newest.from_ref, newest.to_ref) == ("rollback", "worse answers", second.ref, first.ref)


def test_adapter_that_does_nothing_is_refused_and_the_alias_stays(stack: Stack) -> None:
    base = stack.base()
    good, idle = stack.adapter("proof", base, seed=5, proven=True), stack.adapter("proof", base, seed=6, proven=True)
    stack.deploy("proof", good)
    stack.script(as_base=True)
    try:
        move = stack.ended(stack.ask("proof", idle))
    finally:
        stack.script()
    assert move.state == "refused" and move.error is not None and move.error["code"] == "canary_base"
    assert stack.served("proof") == str(good.ref)
    assert stack.chat("proof").json()["model"] == str(good.ref)


def test_adapter_the_engine_refuses_is_told_with_its_reason(stack: Stack) -> None:
    bad = stack.adapter("refused", stack.base(), seed=7)
    stack.script(load_error=str(bad.ref))
    try:
        move = stack.ended(stack.ask("refused", bad))
    finally:
        stack.script()
    assert move.error is not None and move.error["code"] == "adapter_refused" and "No adapter found" in move.error["en"]
    assert stack.served("refused") is None


def test_base_that_does_not_start_is_refused_with_its_log_and_others_serve_on(stack: Stack) -> None:
    good = stack.base()
    stack.deploy("steady", good)
    bad = stack.base("broken", seed=9)
    stack.script(refuse_start=str(bad.ref))
    try:
        move = stack.ended(stack.ask("steady", bad))
    finally:
        stack.script()
    assert move.error is not None and "out of memory while loading" in move.error["en"]
    assert stack.chat("steady").headers["x-sumika-version"] == str(good.ref)
    until(lambda: all(engine.base_id != bad.id for engine in stack.engines()), what="the failed engine is cleared away")


def test_base_swap_starts_the_new_engine_beside_the_old(stack: Stack) -> None:
    first, second = stack.base("one", seed=21), stack.base("one", seed=22)
    stack.deploy("blue", first)
    stack.script(start_delay_s=1.5)
    move = stack.ask("blue", second)
    seen = set()
    while stack.served("blue") == str(first.ref):
        response = stack.chat("blue")
        seen.add((response.status_code, response.headers["x-sumika-version"]))
        time.sleep(0.1)
    stack.script()
    assert stack.ended(move).state == "done"
    assert seen <= {(200, str(first.ref)), (200, str(second.ref))} and (200, str(first.ref)) in seen
    assert stack.chat("blue").headers["x-sumika-version"] == str(second.ref)
    until(lambda: all(engine.base_id != first.id for engine in stack.engines()), what="the old engine ends")


def test_adapter_whose_files_were_changed_is_told_by_verify(stack: Stack) -> None:
    version = stack.adapter("files", stack.base(), seed=8)
    folder = stack.settings.layout.artifacts / version.folder
    assert differences.find(folder, version.digest) == []
    with (folder / "adapter_model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    assert [found.file for found in differences.find(folder, version.digest)] == ["adapter_model.safetensors"]
