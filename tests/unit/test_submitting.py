"""The gateway's side of a check: its places, its limits, and that nothing of it stays."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from sumika.models.errors import SumikaError
from sumika.models.principals import Principal
from sumika.serving import submitting
from sumika.serving.submitting import Submitting


def who(team: str) -> Principal:
    return Principal(f"key-{team}", team, "engineer", team, team_id=f"team-{team}")


def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """What runs in the place of `sumika finetune enqueue`."""
    script = tmp_path / "child.py"
    script.write_text("import json, os, subprocess, sys, time\nasked = json.load(sys.stdin)\n" + code)
    monkeypatch.setattr(submitting, "_COMMAND", (sys.executable, str(script)))


async def until(true: Any) -> Any:
    async with asyncio.timeout(30):
        while not (value := true()):
            await asyncio.sleep(0.02)
        return value


async def test_check_that_takes_too_long_ends_with_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child(tmp_path, monkeypatch, f"""
os.mkdir(os.path.join({str(tmp_path)!r}, asked["workspace"]))
other = subprocess.Popen(["sleep", "600"])
open({str(tmp_path / "pids")!r}, "w").write(f"{{os.getpid()}} {{other.pid}}")
time.sleep(600)
""")  # fmt: skip
    monkeypatch.setattr(submitting, "_LONGEST_S", 3.0)
    with pytest.raises(SumikaError) as told:
        await Submitting(tmp_path).check("x", who("dx"))
    assert (told.value.code, told.value.status) == ("check_exceeded", 400)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    await until(lambda: not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids))
    assert not list(tmp_path.glob(".checking-*"))


async def test_client_that_leaves_ends_its_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child(tmp_path, monkeypatch, f"""
other = subprocess.Popen(["sleep", "600"])
open({str(tmp_path / "pids")!r}, "w").write(str(other.pid))
time.sleep(600)
""")  # fmt: skip
    task = asyncio.create_task(Submitting(tmp_path).check("x", who("dx")))
    pid = int(await until(lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie")


async def test_check_has_a_bound_of_memory_and_so_have_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child(tmp_path, monkeypatch, """
import resource
time.sleep(0.5)  # set from outside, after the start
inner = subprocess.check_output([sys.executable, "-c", "import resource; print(resource.getrlimit(resource.RLIMIT_DATA)[1])"])
print(json.dumps({"data": resource.getrlimit(resource.RLIMIT_DATA), "cpu": resource.getrlimit(resource.RLIMIT_CPU), "inner": int(inner)}))
""")  # fmt: skip
    told = await Submitting(tmp_path).check("x", who("dx"))
    assert told["data"] == [2 * 2**30] * 2 and told["inner"] == 2 * 2**30 and told["cpu"] == [120, 120]


async def test_one_owners_checks_do_not_keep_anothers_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child(tmp_path, monkeypatch, f"""
owner = asked["who"]["team_id"]
while owner == "team-slow" and not os.path.exists({str(tmp_path / "go")!r}):
    time.sleep(0.02)
print(json.dumps({{"owner": owner, "who": asked["who"]}}))
""")  # fmt: skip
    submitting_ = Submitting(tmp_path)
    slow = [asyncio.create_task(submitting_.check("x", who("slow"))) for _ in range(4)]
    await asyncio.sleep(0)
    with pytest.raises(SumikaError) as told:
        await submitting_.check("x", who("slow"))
    assert (told.value.code, told.value.status, told.value.retry_after) == ("too_many_checks", 429, 10)
    async with asyncio.timeout(30):
        served = await submitting_.check("x", who("other"))
    assert (served["who"]["team"], served["who"]["sensitivity"]) == ("other", "confidential")
    assert not any(task.done() for task in slow)
    (tmp_path / "go").touch()
    assert [one["owner"] for one in await asyncio.gather(*slow)] == ["team-slow"] * 4


async def test_error_of_the_check_and_a_death_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = {"code": "bad_config", "en": "line 1", "ja": "1 行目", "status": 400, "param": None}
    child(tmp_path, monkeypatch, f"print(json.dumps({{'error': json.loads({json.dumps(error)!r})}}))")
    with pytest.raises(SumikaError, match="line 1"):
        await Submitting(tmp_path).check("x", who("dx"))
    child(tmp_path, monkeypatch, "sys.exit(1)")
    with pytest.raises(SumikaError) as told:
        await Submitting(tmp_path).check("x", who("dx"))
    assert (told.value.code, told.value.status) == ("check_failed", 500)
    child(tmp_path, monkeypatch, "os.kill(os.getpid(), 9)")
    with pytest.raises(SumikaError) as told:
        await Submitting(tmp_path).check("x", who("dx"))
    assert told.value.code == "check_exceeded"
