"""One child process with its own session: started, recognised again after our own restart, ended with all its children."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from sumika.models import sandbox
from sumika.models.sandbox import View

_POLL_S = 0.1
# A sandbox is made in some milliseconds.
_SANDBOX_S = 10.0
_TAIL_BYTES = 8_192


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A pid and the moment it started: together they name one process for good, since pids are used again."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        return cls(pid, f"{psutil.Process(pid).create_time():.2f}")

    def alive(self) -> bool:
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)  # reaps it, where it is our own child
        try:
            process = psutil.Process(self.pid)
            return f"{process.create_time():.2f}" == self.started and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def age_s(self) -> float:
        """Seconds since it started, by the wall clock, which may have been set meanwhile; never negative."""
        return max(0.0, time.time() - float(self.started))

    def session(self) -> int:
        """The session it is in: led by itself, or by the sandbox around it."""
        if self.alive():
            with suppress(ProcessLookupError):
                return os.getsid(self.pid)
        return self.pid

    def session_members(self, session: int | None = None) -> list[psutil.Process]:
        """Every living process of its session (or of `session`, as it was while this one lived), also when the leader is dead;
        none that is older."""
        session = session or self.session()
        members = []
        for process in psutil.process_iter():
            with suppress(ProcessLookupError, PermissionError, psutil.Error):
                ours = os.getsid(process.pid) == session and process.create_time() >= float(self.started) - 0.1
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    members.append(process)
        return members


def worked_s(process: ProcessId) -> float:
    """Seconds of processor time of the living processes of its session. One that waits for a disk counts as at work: its figure is ahead
    of any before by the time that passed."""
    total = 0.0
    for member in process.session_members():
        with suppress(psutil.Error):
            total += sum(member.cpu_times()[:2])
            total += time.monotonic() if member.status() == psutil.STATUS_DISK_SLEEP else 0
    return total


def start(
    argv: Sequence[str], env: Mapping[str, str], log: Path, kind: sandbox.Kind = "none", view: View | None = None
) -> ProcessId:
    """Start `argv` in a new session with exactly `env`, its output appended to `log` (0600), in a sandbox of `kind` with `view`.

    Raises:
        OSError: when it, or the sandbox around it, can't be started.
    """
    if view is None or kind == "none":
        return _led(_popen(argv, env, log))
    if kind == "landlock":
        return _led(_popen(*sandbox.inside(kind, argv, env, view), log))
    told, tells = os.pipe()
    try:
        outer = _popen(*sandbox.inside(kind, argv, env, view, tells), log, tells)
    finally:
        os.close(tells)
    with os.fdopen(told, "rb") as file:
        info = file.read()
    threading.Thread(target=outer.wait, daemon=True).start()  # it ends with what runs inside, and is reaped then
    return _inside(outer, info, log)


def _popen(argv: Sequence[str], env: Mapping[str, str], log: Path, *fds: int) -> subprocess.Popen[bytes]:
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            argv, env=dict(env), stdin=subprocess.DEVNULL, stdout=fd, stderr=fd, start_new_session=True, cwd="/", pass_fds=fds
        )
    finally:
        os.close(fd)


def _led(child: subprocess.Popen[bytes]) -> ProcessId:
    child.returncode = 0  # `ProcessId.alive` reaps it; Popen must not warn that it still runs
    return ProcessId.of(child.pid)


def _inside(outer: subprocess.Popen[bytes], info: bytes, log: Path) -> ProcessId:
    """The process that bubblewrap started: the one child of the first in its namespace."""
    deadline = time.monotonic() + _SANDBOX_S
    with suppress(psutil.Error, ValueError, KeyError):
        first = psutil.Process(json.loads(info)["child-pid"])
        while first.is_running() and time.monotonic() < deadline:
            if children := first.children():
                return ProcessId.of(min(children, key=lambda child: child.create_time()).pid)
            time.sleep(0.002)
    outer.kill()
    raise OSError(errno.ECHILD, f"bubblewrap did not start it: {tail(log, 3)}")


async def stop(process: ProcessId, grace_s: float) -> None:
    """SIGTERM to it, `grace_s` seconds to end, then SIGKILL to whatever is left of its session."""
    session = process.session()
    if process.alive():
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while process.alive() and time.monotonic() < deadline:
            await asyncio.sleep(_POLL_S)
    while kill(process, session):
        await asyncio.sleep(_POLL_S)
    process.alive()  # reaps it: a killed leader is a zombie until somebody asks


def kill(process: ProcessId, session: int) -> bool:
    """SIGKILL to all of its `session`; whether anything of it was left."""
    members = process.session_members(session)
    for member in members:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    return bool(members)


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log, for an error that a person reads."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""
