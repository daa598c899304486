"""Several engines for one base: each holds every adapter, the least loaded answers, and one that dies is not missed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from sumika.models import engines, scales
from sumika.models.engines import EngineRow
from sumika.models.errors import SumikaError
from sumika.models.registry import Version
from sumika.models.store import revision
from tests.integration.conftest import Stack, finish, start, until
from tests.integration.test_swaps import stream_text


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    started = start(tmp_path_factory.mktemp("replicas"))
    yield started
    started.script()
    finish(started)


def scale(stack: Stack, base: Version, replicas: int) -> None:
    with stack.store.write() as connection:
        scales.put(connection, base.ref.name, replicas, actor="test")


def ready(stack: Stack, base: Version) -> list[EngineRow]:
    return [e for e in stack.engines() if e.base_id == base.id and e.state == "ready"]


def scaled(stack: Stack, base: Version, replicas: int) -> list[EngineRow]:
    scale(stack, base, replicas)

    def there() -> bool:
        return len(ready(stack, base)) == replicas == len([e for e in stack.engines() if e.base_id == base.id])

    until(there, what=f"{replicas} engines")
    with stack.store.read() as connection:
        now = revision(connection)

    def seen() -> bool:
        with stack.store.read() as connection:
            return all(gateway.seen_revision >= now for gateway in engines.list_gateways(connection))

    until(seen, what="the gateway knows them")
    return ready(stack, base)


def test_swap_loads_and_proves_on_every_engine_and_load_is_shared(shared: Stack) -> None:
    base = shared.base("pair", seed=1)
    first, second = (shared.adapter("pair-faq", base, seed=seed, proven=True) for seed in (2, 3))
    shared.deploy("pair-faq", first)
    scaled(shared, base, 2)
    move = shared.deploy("pair-faq", second)
    assert move.canary is not None and move.canary["engines"] == 2
    assert all(str(second.ref) in engine.adapters for engine in ready(shared, base))

    async def four() -> list[str]:
        streams = [asyncio.create_task(stream_text(shared, "pair-faq")) for _ in range(4)]
        await asyncio.sleep(0.7)
        assert [await asyncio.to_thread(shared.running, engine) for engine in ready(shared, base)] == [2, 2]
        return await asyncio.gather(*streams)

    shared.script(chunks=20, chunk_delay_s=0.1)
    assert {text.split()[0] for text in asyncio.run(four())} == {str(second.ref)}
    shared.script()


def test_engine_that_dies_is_not_missed(shared: Stack) -> None:
    base = shared.base("spare", seed=5)
    shared.deploy("spare", base)
    both = scaled(shared, base, 2)
    pid = both[0].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    answers = [shared.chat("spare").status_code for _ in range(20)]
    assert answers == [200] * 20, "a request whose engine is gone before the first byte goes to the other"
    until(lambda: len(ready(shared, base)) == 2, what="the dead one is replaced")


def test_scaling_down_ends_no_stream(shared: Stack) -> None:
    base = shared.base("down", seed=6)
    shared.deploy("down", base)
    scaled(shared, base, 3)

    async def streams() -> list[str]:
        shared.script(chunks=25, chunk_delay_s=0.1)
        running = [asyncio.create_task(stream_text(shared, "down")) for _ in range(6)]
        await asyncio.sleep(0.7)
        await asyncio.to_thread(scale, shared, base, 1)
        shared.script()
        return await asyncio.gather(*running)

    assert [len(text.split()) for text in asyncio.run(streams())] == [25] * 6
    until(lambda: len([e for e in shared.engines() if e.base_id == base.id]) == 1, what="one engine is left")
    assert shared.chat("down").status_code == 200


def test_new_version_of_a_base_gets_as_many_engines(shared: Stack) -> None:
    old, new = shared.base("same", seed=7), shared.base("same", seed=8)
    assert new.ref.name == old.ref.name
    shared.deploy("same", old)
    scaled(shared, old, 2)
    shared.deploy("same", new)
    until(lambda: len(ready(shared, new)) == 2 and not any(e.base_id == old.id for e in shared.engines()), what="all moved over")


@pytest.mark.parametrize(
    ("name", "replicas", "code"), [("nobody", 2, "not_found"), ("odd", 0, "bad_replicas"), ("odd", 65, "bad_replicas")]
)
def test_scale_that_makes_no_sense_is_refused(shared: Stack, name: str, replicas: int, code: str) -> None:
    shared.base("odd", seed=9)
    with shared.store.write() as connection, pytest.raises(SumikaError) as told:
        scales.put(connection, name, replicas, actor="test")
    assert told.value.code == code
