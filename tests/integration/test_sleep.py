"""Several bases on one card (a fake one: no GPU here can be asked): who is asked for is woken, and nobody is lost meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sumika.models.registry import Version
from tests.conftest import ROOT
from tests.integration.conftest import Stack, _runs, start, until
from tests.integration.test_swaps import stream_text

GIB = 2**30


@dataclass
class Card:
    """A gateway, and a supervisor with a card of 80 GiB of which each engine takes 50."""

    stack: Stack
    supervisor: subprocess.Popen[bytes]

    def supervise(self) -> None:
        with self.stack.log.open("ab") as log:
            self.supervisor = subprocess.Popen(
                [sys.executable, "-m", "tests.gpu_supervisor"], env=self.stack.env, stdout=log, stderr=log, cwd=ROOT
            )

    def host_free(self, gib: int) -> None:
        (self.stack.settings.layout.sockets / "host_free").write_text(str(gib * GIB))

    def naps(self, base: Version) -> list[str]:
        file = self.stack.settings.layout.sockets / "naps.txt"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line.split(" ", 1)[1] for line in lines if line.startswith(f"{base.ref} ")]

    def state(self, base: Version) -> str:
        return next((e.state for e in self.stack.engines() if e.base_id == base.id), "none")


@pytest.fixture
def card(tmp_path: Path) -> Iterator[Card]:
    env = {"SUMIKA_ENGINE__DEVICE": "cuda", "SUMIKA_ENGINE__SLEEP": "true", "SUMIKA_ENGINE__GPU_MEMORY_GIB": "50"}
    stack = start(tmp_path, role="gateway", **env)
    made = Card(stack, stack.process)
    made.host_free(500)
    stack.script(weights_bytes=50 * GIB)
    made.supervise()
    yield made
    stack.script()
    pids = [engine.pid for engine in stack.engines() if engine.pid]
    made.supervisor.terminate()
    assert made.supervisor.wait(30) == 0, stack.log.read_text()
    assert stack.stop() in (0, -signal.SIGTERM), stack.log.read_text()
    assert not any(_runs(pid) for pid in pids), "an engine outlived its supervisor"
    stack.store.close()


def two(card: Card) -> tuple[Version, Version]:
    """Two bases that don't fit side by side, each with a proven adapter in service."""
    first, second = card.stack.base("one", seed=1), card.stack.base("two", seed=2)
    for name, base in (("a", first), ("b", second)):
        card.stack.deploy(name, card.stack.adapter(name, base, seed=base.id, proven=True))
    return first, second


@pytest.mark.parametrize("level", [1, 2])
def test_base_that_is_asked_for_is_woken_and_the_other_sleeps(card: Card, level: int) -> None:
    card.host_free(500 if level == 1 else 1)
    first, second = two(card)
    assert (card.state(first), card.state(second)) == ("asleep", "ready")
    response = card.stack.chat("a")
    assert response.status_code == 200 and response.headers["x-sumika-version"] == "a@1" == response.json()["model"]
    assert (card.state(first), card.state(second)) == ("ready", "asleep")
    woken = ["/wake_up", "/collective_rpc", "/reset_prefix_cache"] if level == 2 else ["/wake_up"]
    assert card.naps(first) == [f"/sleep?level={level}&mode=wait", *woken]
    assert card.naps(second) == [f"/sleep?level={level}&mode=wait"]


def test_both_asked_for_at_once_lose_nothing_and_streams_end_whole(card: Card) -> None:
    two(card)
    card.stack.script(weights_bytes=50 * GIB, chunks=10, chunk_delay_s=0.1)

    async def both() -> list[str]:
        return await asyncio.gather(*(stream_text(card.stack, name) for _ in range(5) for name in ("a", "b")))

    texts = asyncio.run(both())
    assert [text.split()[0] for text in texts] == ["a@1", "b@1"] * 5 and {len(text.split()) for text in texts} == {10}


def test_sleep_that_frees_nothing_is_not_believed(card: Card) -> None:
    first, second = two(card)
    card.stack.script(weights_bytes=50 * GIB, sleep_frees_nothing=True)
    assert card.stack.chat("a").status_code == 200, "the other one's memory came free by ending it"
    card.stack.script(weights_bytes=50 * GIB)
    assert "became free" in card.stack.log.read_text()
    assert card.stack.chat("b").status_code == 200, "and it comes back when it is asked for"
    assert (card.state(first), card.state(second)) == ("asleep", "ready")


def test_supervisor_killed_while_one_sleeps_leaves_it_asleep_until_it_is_asked_for(card: Card) -> None:
    first, _ = two(card)
    pids = {engine.pid for engine in card.stack.engines()}
    os.kill(card.supervisor.pid, signal.SIGKILL)
    card.supervisor.wait()
    card.supervise()
    until(lambda: "found alive" in card.stack.log.read_text(), what="the engines are adopted")
    assert card.stack.chat("b").status_code == 200 and card.state(first) == "asleep"
    assert card.stack.chat("a").status_code == 200
    assert {engine.pid for engine in card.stack.engines()} == pids, "nobody was restarted"
    assert card.naps(first)[-1] == "/reset_prefix_cache", "how deep it slept is not known: weights are read anew"
