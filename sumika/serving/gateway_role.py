"""One gateway worker as a process, composed from settings."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import uvicorn

from sumika.models.settings import GatewaySettings, Settings
from sumika.models.store import Store
from sumika.serving.app import create_app
from sumika.serving.clerk import ClerkProcess
from sumika.serving.drain import Drain
from sumika.serving.heartbeat import beating
from sumika.serving.http import BoundedHttp
from sumika.serving.signals import Signals, ending_with, stop_on_signals
from sumika.serving.stack import check_port

log = logging.getLogger(__name__)

# Objects made before the collector looks through the young ones; a request makes some 300 that live as long as it does.
_YOUNG_OBJECTS = 20_000
# After the drain: for the last events of what was cut to reach their clients.
_LAST_WORDS_S = 1.0


class _Server(uvicorn.Server):
    """uvicorn's own handlers end the process by the signal once more after it drained; a drain that went well is status 0."""

    def __init__(self, config: uvicorn.Config, settings: GatewaySettings, signals: Signals, drain: Drain) -> None:
        super().__init__(config)
        self._settings, self._signals, self._drain = settings, signals, drain

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def exit_on_signal(self) -> None:
        """Say first that no more should come, and go on for a while: balancers look now and then."""
        await self._signals.stop.wait()
        self._drain.begin()
        await self._at_once_or_after(self._settings.shutdown_delay_s)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        cutting = asyncio.create_task(self._cut())
        try:
            await super().shutdown(sockets)
        finally:
            cutting.cancel()

    async def _cut(self) -> None:
        """uvicorn would cancel what still runs without a word to its client."""
        await self._at_once_or_after(self._settings.drain_timeout_s)
        log.warning("%d requests still ran and were cut", self._drain.cut())
        await asyncio.sleep(_LAST_WORDS_S)
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    async def _at_once_or_after(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._signals.at_once.wait()


def _keep_for_good() -> None:
    """What is loaded by now stays until the end. The collector needn't look through it again: each time took 0.1 s here, in
    which nobody was answered (docs/performance.md)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 10, 10)


def _shared_port(settings: Settings) -> socket.socket:
    """A socket of our own on the port of all workers: the kernel gives each its share of the connections."""
    listening = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind((settings.host, settings.port))
    return listening


async def serve(
    settings: Settings, store: Store, parent: int | None, clerk: ClerkProcess | None = None, heartbeat: int | None = None
) -> None:
    """Answer requests until a signal comes or the parent is gone, then drain."""
    shared = _shared_port(settings) if settings.gateway.workers > 1 else None
    if shared is None:
        check_port(settings)
    drain = Drain()
    config = uvicorn.Config(
        create_app(settings, store, clerk, drain),
        host=settings.host,
        port=settings.port,
        http=BoundedHttp,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
    )
    signals = stop_on_signals()
    server = _Server(config, settings.gateway, signals, drain)
    _keep_for_good()
    async with beating(heartbeat), ending_with(parent, signals.stop):
        exiting = asyncio.create_task(server.exit_on_signal())
        await server.serve([shared] if shared else None)
        exiting.cancel()
