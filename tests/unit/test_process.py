from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from sumika.serving import process
from sumika.serving.process import ProcessId

# A leader with a child that both ignore SIGTERM.
STUBBORN = (
    "import os,signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.fork(); print('up', flush=True); time.sleep(60)"
)


def started(tmp_path: Path, code: str) -> ProcessId:
    log = tmp_path / "log"
    live = process.start([sys.executable, "-c", code], {"PATH": os.environ["PATH"]}, log)
    while "up" not in log.read_text():
        time.sleep(0.02)
    return live


async def test_stop_ends_every_process_of_the_session(tmp_path: Path) -> None:
    live = started(tmp_path, STUBBORN)
    while len(members := live.session_members()) < 2:
        await asyncio.sleep(0.02)
    await process.stop(live, grace_s=0.3)
    assert not live.alive() and not any(member.is_running() and member.status() != "zombie" for member in members)


async def test_stop_ends_children_whose_leader_died(tmp_path: Path) -> None:
    live = started(tmp_path, STUBBORN)
    while len(live.session_members()) < 2:
        await asyncio.sleep(0.02)
    os.kill(live.pid, 9)
    while live.alive():
        await asyncio.sleep(0.02)
    assert live.session_members()
    await process.stop(live, grace_s=0.3)
    assert not live.session_members()


async def test_pid_used_again_by_another_process_is_not_taken_for_ours(tmp_path: Path) -> None:
    live = started(tmp_path, "print('up', flush=True); import time; time.sleep(60)")
    other = ProcessId(live.pid, "1.00")
    assert live.alive() and not other.alive()
    await process.stop(live, grace_s=1)


def test_child_sees_only_the_environment_it_is_given(tmp_path: Path) -> None:
    started(tmp_path, "import os; print(sorted(os.environ), 'up', flush=True)")
    assert "HOME" not in (tmp_path / "log").read_text()
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600
    assert process.tail(tmp_path / "log", 1).endswith("up")
