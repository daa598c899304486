"""A role as a process of its own: started, watched, started again, ended."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from sumika.serving import heartbeat
from sumika.serving.backoff import Backoff
from sumika.serving.heartbeat import Heartbeat

log = logging.getLogger(__name__)

# First pause, longest, and what is no crash at the start: a gateway that is away costs everybody their answers.
_RESTARTS_S = (1.0, 30.0, 20.0)
# What a process gets to end where nobody waits for its work.
_AT_ONCE_S = 5.0
# Two signals of one kind that come together are heard as one.
_BETWEEN_SIGNALS_S = 0.2


class Child:
    """Started again when it dies, or when its event loop stands still for `hung_after_s` (None: it has none)."""

    def __init__(
        self,
        role: str,
        command: Sequence[str],
        *,
        hung_after_s: int | None,
        env: Mapping[str, str] | None = None,
        ended: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._role, self._command, self._env, self._ended = role, command, env, ended
        self._hung_after_s = hung_after_s
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._hurried = asyncio.Event()

    async def keep(self) -> None:
        """Run until cancelled; the process then runs on, and is watched on."""
        backoff = Backoff(*_RESTARTS_S)
        while True:
            began = time.monotonic()
            self._process = await self._started()
            status = await self._process.wait()
            self._ended(self._process.pid)
            pause = backoff.ended(time.monotonic() - began)
            log.error("%s ended with status %s; started again in %.0f s", self._role, status, pause)
            await asyncio.sleep(pause)

    async def end(self, grace_s: float) -> bool:
        """Whether it was there and ended in order."""
        if self._process is None or self._process.returncode is not None:
            return False
        self._process.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._ended_or_hurried(self._process)
        if self._process.returncode is None:
            await self._end_at_once(self._process, grace_s)
        if self._watch is not None:
            await self._watch
        return self._process.returncode == 0

    def hurry(self) -> None:
        """Whoever ends it waits no longer."""
        self._hurried.set()

    async def _ended_or_hurried(self, process: asyncio.subprocess.Process) -> None:
        ways = [asyncio.create_task(process.wait()), asyncio.create_task(self._hurried.wait())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()

    async def _end_at_once(self, process: asyncio.subprocess.Process, grace_s: float) -> None:
        if self._hurried.is_set():
            await asyncio.sleep(_BETWEEN_SIGNALS_S)
        else:
            log.error("%s did not end in %.0f s and is killed", self._role, grace_s)
        await _end(process, _AT_ONCE_S if self._hurried.is_set() else 0)

    async def _started(self) -> asyncio.subprocess.Process:
        if self._hung_after_s is None:
            return await start(*self._command, parent=os.getpid(), env=self._env)
        beats = Heartbeat()
        try:
            process = await start(*self._command, parent=os.getpid(), env=self._env, beat_fd=beats.fd)
        finally:
            beats.started()
        self._watch = asyncio.create_task(self._watched(process, beats, self._hung_after_s))
        return process

    async def _watched(self, process: asyncio.subprocess.Process, beats: Heartbeat, hung_after_s: int) -> None:
        """End the process when its loop stands still; at half of that time, have it log where it stands."""
        try:
            while process.returncode is None:
                missed = beats.missed()
                if missed == hung_after_s // 2:
                    log.error("%s (pid %d) stands still for %d s; its stacks follow", self._role, process.pid, missed)
                    with suppress(ProcessLookupError):
                        process.send_signal(heartbeat.STACKS)
                if missed >= hung_after_s:
                    log.error("%s (pid %d) stands still for %d s and is ended", self._role, process.pid, missed)
                    return await _end(process, _AT_ONCE_S)
                with suppress(TimeoutError):
                    async with asyncio.timeout(heartbeat.INTERVAL_S):
                        await process.wait()
        finally:
            beats.close()


async def _end(process: asyncio.subprocess.Process, grace_s: float) -> None:
    """SIGTERM, and SIGKILL after `grace_s`."""
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(grace_s):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def start(
    *command: str, parent: int, env: Mapping[str, str] | None = None, beat_fd: int | None = None
) -> asyncio.subprocess.Process:
    """A command of `sumika`. In a session of its own, so that Ctrl-C reaches the parent alone, which drains in order."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sumika.cli.main",
        *command,
        "--parent",
        str(parent),
        *([] if beat_fd is None else ["--heartbeat", str(beat_fd)]),
        start_new_session=True,
        env=os.environ | (env or {}),
        pass_fds=() if beat_fd is None else (beat_fd,),
    )
