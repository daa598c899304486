"""Heartbeats of an event loop to the process that started it, through a pipe.

A loop that stands still answers nobody and hears no signal, and its process looks alive: only from outside can it be noticed.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

INTERVAL_S = 1.0
_BEAT, _GOODBYE = b".", b"e"
# Makes a process that beats write the stacks of all its threads to stderr.
STACKS = signal.SIGUSR1


@asynccontextmanager
async def beating(fd: int | None) -> AsyncIterator[None]:
    """While inside, beat into `fd`; then say goodbye. None: nobody listens."""
    if fd is None:
        yield
        return
    os.set_blocking(fd, False)
    faulthandler.register(STACKS)
    task = asyncio.create_task(_beat(fd))
    try:
        yield
    finally:
        task.cancel()
        _send(fd, _GOODBYE)


async def _beat(fd: int) -> None:
    while True:
        _send(fd, _BEAT)
        await asyncio.sleep(INTERVAL_S)


def _send(fd: int, what: bytes) -> None:
    with suppress(BlockingIOError, BrokenPipeError):  # who started us is paused, or gone
        os.write(fd, what)


class Heartbeat:
    """The listener's side: how long a loop has been silent, counted in looks of ours, since a paused machine pauses both sides."""

    def __init__(self) -> None:
        self._read, self.fd = os.pipe()
        os.set_blocking(self._read, False)
        self._begun = self._over = False
        self._missed = 0

    def missed(self) -> int:
        """Looks without a beat since the last one, this one included; 0 before the first beat and after the goodbye."""
        heard = self._heard()
        self._over |= _GOODBYE in heard
        self._begun |= bool(heard)
        self._missed = 0 if heard or self._over or not self._begun else self._missed + 1
        return self._missed

    def _heard(self) -> bytes:
        try:
            return os.read(self._read, 65_536)
        except BlockingIOError:
            return b""

    def started(self) -> None:
        """The process has the pipe's other end; ours is not needed."""
        os.close(self.fd)

    def close(self) -> None:
        os.close(self._read)
