"""A gateway worker whose event loop stands still: noticed from outside, ended and started again, however the gateway was started."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from sumika.models import engines
from tests.conftest import ROOT
from tests.integration.conftest import Stack, finish, start, until
from tests.integration.test_workers import workers

HANGS = {"PYTHONPATH": str(ROOT / "tests" / "hung_loop")}


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Stack]:
    stack = start(tmp_path, **HANGS)
    yield stack
    finish(stack)


def known(stack: Stack) -> int:
    with stack.store.read() as connection:
        return len(engines.list_gateways(connection))


def hang(pid: int) -> None:
    os.kill(pid, signal.SIGUSR2)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def live(stack: Stack, timeout_s: float = 1) -> bool:
    try:
        return httpx.get(f"{stack.url}/health/live", timeout=timeout_s).status_code == 200
    except httpx.TransportError:
        return False


def test_worker_that_stands_still_is_replaced_and_engines_stay(up: Stack) -> None:
    base = up.base()
    up.deploy("talk", base)
    engine, worker = up.engine_of(base).pid, up.role_pid("gateway")
    hang(worker)
    until(lambda: not live(up), what="the loop stands still")
    until(lambda: gone(worker), within=60, what="it is ended")
    until(lambda: live(up), within=60, what="it is started again")
    until(lambda: up.served("talk") is not None, what="it knows the alias")
    assert up.chat("talk").status_code == 200
    assert up.engine_of(base).pid == engine, "the engine went on"
    log = up.log.read_text()
    assert "stands still" in log and "sitecustomize.py" in log, "where it stood is in the log"


def test_each_of_several_workers_is_watched(tmp_path: Path, valkey: str) -> None:
    stack = start(tmp_path, **HANGS, SUMIKA_GATEWAY__WORKERS="2", SUMIKA_GATEWAY__LIMITS_URL=valkey)
    until(lambda: len(workers(stack)) == known(stack) == 2, what="all workers serve")
    hung, other = workers(stack)
    hang(hung)
    until(lambda: gone(hung), within=60, what="it is ended")
    until(lambda: len(workers(stack)) == 2, within=60, what="it is started again")
    assert other in workers(stack) and hung not in workers(stack)
    finish(stack)


def test_gateway_that_was_started_alone_is_watched_and_ends_though_it_hangs(tmp_path: Path) -> None:
    stack = start(tmp_path, role="gateway", **HANGS)
    [worker] = [child.pid for child in psutil.Process(stack.process.pid).children()]
    hang(worker)
    until(lambda: gone(worker), within=60, what="it is ended")
    until(lambda: live(stack), within=60, what="it is started again")
    [again] = [child.pid for child in psutil.Process(stack.process.pid).children()]
    hang(again)
    until(lambda: not live(stack), what="the loop stands still")
    began = time.monotonic()
    stack.process.send_signal(signal.SIGTERM)
    assert stack.process.wait(timeout=60) == 0 and gone(again)
    assert time.monotonic() - began < 40, "SIGTERM was heard before the drain's deadline"
    stack.store.close()
