"""One child process with its own session: started, recognised again after our own restart, ended with all its children."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_POLL_S = 0.1
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

    def session_members(self) -> list[psutil.Process]:
        """Every living process of the session this one leads, also when the leader is dead; none that is older."""
        members = []
        for process in psutil.process_iter():
            with suppress(ProcessLookupError, PermissionError, psutil.Error):
                ours = os.getsid(process.pid) == self.pid and process.create_time() >= float(self.started) - 0.1
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    members.append(process)
        return members


def start(argv: Sequence[str], env: Mapping[str, str], log: Path) -> ProcessId:
    """Start `argv` as the leader of a new session with exactly `env`, its output appended to `log` (0600)."""
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        child = subprocess.Popen(
            argv, env=dict(env), stdin=subprocess.DEVNULL, stdout=fd, stderr=fd, start_new_session=True, cwd="/"
        )
    finally:
        os.close(fd)
    child.returncode = 0  # `ProcessId.alive` reaps it; Popen must not warn that it still runs
    return ProcessId.of(child.pid)


async def stop(process: ProcessId, grace_s: float) -> None:
    """SIGTERM to the leader, `grace_s` seconds to end, then SIGKILL to whatever is left of its session."""
    if process.alive():
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while process.alive() and time.monotonic() < deadline:
            await asyncio.sleep(_POLL_S)
    while kill(process):
        await asyncio.sleep(_POLL_S)
    process.alive()  # reaps it: a killed leader is a zombie until somebody asks


def kill(process: ProcessId) -> bool:
    """SIGKILL to all of its session; whether anything of it was left."""
    members = process.session_members()
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
