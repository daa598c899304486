"""How a role hears that it shall end: by a signal, or because who started it is gone."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

log = logging.getLogger(__name__)

_PARENT_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Signals:
    """`stop`: to end in order; `at_once`: a second time, so that nothing is waited for."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    at_once: asyncio.Event = field(default_factory=asyncio.Event)

    def heard(self) -> None:
        (self.at_once if self.stop.is_set() else self.stop).set()


def stop_on_signals() -> Signals:
    """What SIGINT and SIGTERM set from now on."""
    signals = Signals()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, signals.heard)
    return signals


@asynccontextmanager
async def ending_with(parent: int | None, stop: asyncio.Event) -> AsyncIterator[None]:
    """While inside, set `stop` once `parent` is no longer our parent: whoever started us died and can't end us any more."""

    async def watch() -> None:
        while os.getppid() == parent:
            await asyncio.sleep(_PARENT_POLL_S)
        log.warning("the process that started this one is gone; ending too")
        stop.set()

    watching = asyncio.create_task(watch()) if parent is not None else None
    try:
        yield
    finally:
        if watching is not None:
            watching.cancel()
