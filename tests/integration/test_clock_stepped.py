"""The wall clock jumps an hour, forwards or back, while everything runs: answers go on, what died is replaced, nothing waits an hour."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select

from sumika.models import schema
from sumika.models.audit.verify import verify
from tests.conftest import ROOT
from tests.integration.conftest import Stack, finish, start, until

HOUR_S = 3600


class House:
    """A stack whose clock can be stepped."""

    def __init__(self, work: Path) -> None:
        self._clock = work / "clock"
        self.step(0)
        self.stack = start(work, PYTHONPATH=str(ROOT / "tests" / "stepped_clock"), SUMIKA_TEST_CLOCK=str(self._clock))

    def step(self, seconds: float) -> None:
        temp = self._clock.with_suffix(".new")
        temp.write_text(str(seconds))
        temp.rename(self._clock)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.stack.script()
    finish(made.stack)


def counted(stack: Stack) -> int:
    with stack.store.read() as connection:
        return connection.scalar(select(func.count()).select_from(schema.usage)) or 0


@pytest.mark.parametrize("seconds", [HOUR_S, -HOUR_S])
def test_clock_that_jumps_interrupts_nobody(house: House, seconds: int) -> None:
    stack = house.stack
    base = stack.base()
    stack.deploy("talk", base)
    secret, _ = stack.new_key(expires_at=datetime.now(UTC) + timedelta(minutes=30))
    stack.script(chunks=20, chunk_delay_s=0.1)
    body = {"model": "talk", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    with stack.client() as client, client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        house.step(seconds)
        assert [line for line in lines if line][-1] == "data: [DONE]"
    stack.script()
    for _ in range(20):
        assert stack.chat("talk").status_code == 200
    assert stack.deploy("faq", stack.adapter("faq", base)).state == "done"
    with stack.client(secret) as client:
        until(
            lambda: client.get("/v1/models").status_code == (401 if seconds > 0 else 200),
            within=5,
            what="the key ends by the clock",
        )
    until(lambda: counted(stack) == 21, within=10, what="each request is counted once")
    stamps = [row.at for row in _rows(stack)]
    assert (
        abs(
            (
                datetime.now(UTC)
                + timedelta(seconds=seconds)
                - datetime.fromisoformat(max(stamps) if seconds > 0 else min(stamps))
            ).total_seconds()
        )
        < 120
    )
    assert verify(stack.store, stack.settings.layout).ok


def _rows(stack: Stack) -> list[object]:
    with stack.store.read() as connection:
        return list(connection.execute(select(schema.usage)))


def test_who_died_before_the_clock_was_put_back_is_replaced_at_once(house: House) -> None:
    """Its lease and its last sign of life lie an hour in the future."""
    stack = house.stack
    base = stack.base()
    stack.deploy("talk", base)
    os.kill(stack.process.pid, signal.SIGSTOP)  # so that neither is started again before the step
    for role in ("supervise", "gateway"):
        os.kill(stack.role_pid(role), signal.SIGKILL)
    house.step(-HOUR_S)
    os.kill(stack.process.pid, signal.SIGCONT)
    other = stack.base("other", seed=3)
    until(lambda: stack.ended(stack.ask("talk", other), within=90).state == "done", within=90, what="a new supervisor acts")
    until(
        lambda: [e.base_id for e in stack.engines()] == [other.id], within=90, what="the old engine is ended: no gateway holds it"
    )
