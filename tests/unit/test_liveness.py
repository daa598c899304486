"""An engine that hangs is told from one that is slow, busy or asleep."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from sumika.models.errors import SumikaError
from sumika.models.settings import EngineSettings
from sumika.serving import liveness
from sumika.serving.engine_client import EngineClient

SETTINGS = EngineSettings(liveness_every_s=0.01, liveness_timeout_s=0.5)


class Engine:
    """`progress`: what it says of its counters, one look after another. `answers`: whether a token comes."""

    def __init__(self, progress: Iterator[float], *, answers: bool = False) -> None:
        self._progress, self._answers = progress, answers
        self.looks = 0

    async def progress(self) -> float:
        self.looks += 1
        return next(self._progress)

    async def generates(self, model: str, patience_s: float) -> bool:
        if not self._answers:
            await asyncio.sleep(patience_s)
        return self._answers


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "_LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(liveness, "_STILL_S", 0.1)


def watch(engine: Engine, worked: Callable[[], float] = lambda: 0.0, *, asleep: bool = False) -> asyncio.Task[None]:
    client = cast(EngineClient, engine)
    return asyncio.create_task(liveness.until_dead(client, "base@1", SETTINGS, lambda: asleep, worked))


async def lives(task: asyncio.Task[None], engine: Any, looks: int = 30) -> None:
    while engine.looks < looks:
        assert not task.done()
        await asyncio.sleep(0.01)
    task.cancel()


async def test_one_that_neither_steps_nor_computes_is_dead_before_its_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "_STILL_S", 0.05)
    slow = EngineSettings(liveness_every_s=0.01, liveness_timeout_s=3600)
    client = cast(EngineClient, Engine(itertools.repeat(7.0)))
    await asyncio.wait_for(liveness.until_dead(client, "base@1", slow, lambda: False, lambda: 0.0), 60)


async def test_one_that_computes_and_gives_nothing_is_dead_when_its_time_is_up() -> None:
    seconds = itertools.count()
    await asyncio.wait_for(watch(Engine(itertools.repeat(7.0)), lambda: float(next(seconds))), 60)


async def test_one_that_answers_lives() -> None:
    engine = Engine(itertools.repeat(7.0), answers=True)
    await lives(watch(engine), engine)


async def test_one_whose_counters_move_lives_though_it_has_no_token_for_us() -> None:
    engine = Engine(float(count // 4) for count in itertools.count())
    await lives(watch(engine), engine, looks=60)


async def test_one_that_sleeps_is_not_asked() -> None:
    engine = Engine(itertools.repeat(7.0))
    task = watch(engine, asleep=True)
    await asyncio.sleep(0.1)
    assert not task.done() and engine.looks == 0
    task.cancel()


async def test_one_whose_server_is_away_is_not_ours_to_judge() -> None:
    class Away(Engine):
        async def progress(self) -> float:
            self.looks += 1
            raise SumikaError("engine_unreachable", "away", "不通")

    engine = Away(itertools.repeat(0.0))
    await lives(watch(engine), engine)
