"""`kill -9` of each process at each step of a swap: it ends in the old version or the new, never between."""

from __future__ import annotations

import os
import signal
import time
import zlib
from collections.abc import Iterator

import httpx
import pytest

from sumika.models.registry import Version
from tests.integration.conftest import Stack, finish, start, until

# A step is held open by a delay, and the kill comes in the middle of it.
STEPS = {"loading": {"load_delay_s": 1.0}, "proving": {"canary_delay_s": 1.0}, "unloading": {"unload_delay_s": 1.0}}
PROCESSES = ("supervise", "gateway", "engine")
_IN_THE_MIDDLE_S = 0.6


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = start(tmp_path_factory.mktemp("killed"))
    yield stack
    stack.script()
    finish(stack)


def pid_of(stack: Stack, process: str, version: Version) -> int:
    if process != "engine":
        return stack.role_pid(process)
    pid = stack.engine_of(version).pid
    assert pid is not None
    return pid


def seed_of(text: str) -> int:
    """Adapters of different names must differ, or they would be one version."""
    return zlib.crc32(text.encode()) % 1_000_000


def answered_by(stack: Stack, alias: str) -> str | None:
    """The version that answers, None while nobody does."""
    try:
        response = stack.chat(alias)
    except httpx.TransportError:
        return None
    return response.headers["x-sumika-version"] if response.status_code == 200 else None


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("step", STEPS)
def test_adapter_swap_with_a_process_killed_ends_in_one_version(killed: Stack, step: str, process: str) -> None:
    stack, alias = killed, f"{step}-{process}"
    base = stack.base()
    first, old, new = (stack.adapter(alias, base, seed=seed_of(alias) + i, proven=True) for i in range(3))
    stack.deploy(alias, first)
    stack.deploy(alias, old)
    victim = pid_of(stack, process, base)
    stack.script(**STEPS[step])
    move = stack.ask(alias, new)
    time.sleep(_IN_THE_MIDDLE_S)
    os.kill(victim, signal.SIGKILL)
    stack.script()
    ended = stack.ended(move, within=60)
    now = new if ended.state == "done" else old
    until(lambda: answered_by(stack, alias) == str(now.ref), within=60, what=f"{alias} answers as {now.ref} ({ended.state})")
    # The version before stays loaded for a rollback; what neither serves nor would come back is gone.
    gone = first if now is new else new
    until(lambda: str(gone.ref) not in stack.engine_of(base).adapters, what=f"{gone.ref} is unloaded")
    assert str(now.ref) in stack.engine_of(base).adapters and len(stack.engines()) == 1


@pytest.mark.parametrize("process", PROCESSES)
def test_base_swap_with_a_process_killed_while_the_new_engine_starts_ends_in_one_version(own_stack: Stack, process: str) -> None:
    stack = own_stack
    old, new = stack.base("old", seed=31), stack.base("new", seed=32)
    stack.deploy("plain", old)
    stack.script(start_delay_s=1.5)
    move = stack.ask("plain", new)
    row = until(lambda: next((e for e in stack.engines() if e.base_id == new.id and e.pid), None), what="the new engine starts")
    os.kill(row.pid if process == "engine" else stack.role_pid(process), signal.SIGKILL)
    stack.script()
    ended = stack.ended(move, within=60)
    now = new if ended.state == "done" else old
    until(lambda: answered_by(stack, "plain") == str(now.ref), within=60, what=f"plain answers as {now.ref}")
    until(lambda: [e.base_id for e in stack.engines()] == [now.id], within=30, what="one engine is left")
