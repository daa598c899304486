"""What a process in each sandbox sees: what it was given, and nothing of keys, other folders and other processes."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import time
from pathlib import Path

import pytest

from sumika.models import sandbox
from sumika.models.errors import SumikaError
from sumika.models.sandbox import Kind, View, bubblewrap, landlock
from sumika.models.settings import EngineSettings
from sumika.serving import machine, process, vllm
from sumika.serving.process import ProcessId

KINDS = [
    pytest.param(
        "bubblewrap", marks=pytest.mark.skipif(not bubblewrap.works(), reason="bubblewrap may not make namespaces here")
    ),
    pytest.param("landlock", marks=pytest.mark.skipif(not landlock.works(), reason="this kernel has no Landlock")),
]
LOOK = """
import json, os, socket, sys
home, port, parent = sys.argv[1:4]
def can(what):
    try:
        what()
        return True
    except OSError:
        return False
def connect():
    with socket.socket() as one:
        one.settimeout(5)
        one.connect(("127.0.0.1", int(port)))
print(json.dumps({
    "key": can(lambda: open(f"{home}/admin.key")), "database": can(lambda: open(f"{home}/sumika.db", "ab")),
    "other run": can(lambda: open(f"{home}/runs/other/train.jsonl")), "root's home": can(lambda: os.listdir("/root/.ssh")),
    "settings": can(lambda: open("/etc/shadow")), "environment of its parent": can(lambda: open(f"/proc/{parent}/environ").read()),
    "signal to its parent": can(lambda: os.kill(int(parent), 0)), "address": can(connect), "link": can(lambda: os.symlink("/etc/passwd", f"{home}/own/link")),
    "write what it reads": can(lambda: open(f"{home}/weights/x", "w")),
    "weights": can(lambda: open(f"{home}/weights/model")), "own": can(lambda: open(f"{home}/own/x", "w")), "temp": can(lambda: __import__("tempfile").TemporaryFile()),
}), flush=True)
"""


@pytest.fixture
def view(tmp_path: Path) -> View:
    home = tmp_path / "home"
    for folder in ("weights", "own", "runs/other", "temp"):
        (home / folder).mkdir(parents=True)
    for file in ("admin.key", "sumika.db", "runs/other/train.jsonl", "weights/model"):
        (home / file).write_text("x")
    return View(home, home / "temp", (home / "weights",), (home / "own",))


def started(kind: Kind, view: View, code: str, *words: str) -> tuple[ProcessId, Path]:
    log = view.home / "log"
    argv = [sys.executable, "-c", code, *words]
    return process.start(argv, {"PATH": os.environ["PATH"]}, log, kind, view), log


def text(log: Path) -> str:
    deadline = time.monotonic() + 30
    while "\n" not in (said := log.read_text()):
        assert time.monotonic() < deadline, said
        time.sleep(0.02)
    return said


@pytest.mark.parametrize("kind", KINDS)
def test_it_sees_what_it_was_given_and_nothing_else(kind: Kind, view: View) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        _, log = started(kind, view, LOOK, str(view.home), str(server.getsockname()[1]), str(os.getpid()))
        seen = json.loads(text(log))
    allowed = {"weights", "own", "temp"} | ({"link"} if kind == "bubblewrap" else set())
    assert {what for what, could in seen.items() if could} == allowed


@pytest.mark.parametrize("kind", KINDS)
async def test_it_is_known_by_its_own_number_and_ends_as_asked_with_all_its_children(kind: Kind, view: View) -> None:
    code = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('asked', flush=True), sys.exit()))\n"
        "os.fork() or signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True); time.sleep(60)"
    )
    live, log = started(kind, view, code)
    text(log)
    assert live.alive() and "python" in " ".join(part.name() for part in live.session_members())
    session = live.session()
    await process.stop(live, grace_s=5)
    assert "asked" in log.read_text() and not live.alive()
    deadline = time.monotonic() + 10
    while live.session_members(session):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_kills_itself_is_seen_to_be_dead(kind: Kind, view: View) -> None:
    live, _ = started(kind, view, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    deadline = time.monotonic() + 30
    while live.alive():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_sandbox_that_does_not_work_here_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bubblewrap, "works", lambda: False)
    monkeypatch.setattr(landlock, "works", lambda: True)
    assert sandbox.choose("auto") == "landlock" and sandbox.choose("none") == "none"
    with pytest.raises(SumikaError) as told:
        sandbox.choose("bubblewrap")
    assert told.value.code == "sandbox_unavailable"


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("echo 'GPU 0: H200'", "answers"),
        ("echo failed >&2; exit 9", "silent"),
        ("echo 'No devices were found'", "none"),
        (None, "none"),
    ],
)
def test_gpu_that_is_silent_makes_no_cpu_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None, found: str
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin" if script else str(tmp_path))
    monkeypatch.setattr(machine, "_has_driver", lambda: False)
    if script:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    assert machine.nvidia() == found
    if found == "silent":
        with pytest.raises(SumikaError) as told:
            vllm.device(EngineSettings())
        assert told.value.code == "gpu_silent"
    else:
        assert vllm.device(EngineSettings()) == ("cuda" if found == "answers" else "cpu")
    assert vllm.device(EngineSettings(device="cpu")) == "cpu"


def test_device_without_its_tool_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(machine, "_has_driver", lambda: True)
    assert machine.nvidia() == "silent"


def test_programs_in_the_temporary_folder_are_seen(tmp_path: Path) -> None:
    """A checkout in /tmp, whose Python lies there too."""
    view = View(tmp_path / "home", tmp_path / "temp")
    words = bubblewrap.wrapped([sys.executable], {}, view)
    temp = words.index(str(view.temp))
    assert words[temp + 1] == "/tmp" and temp < words.index("--ro-bind")
