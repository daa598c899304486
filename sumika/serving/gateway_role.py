"""One gateway worker as a process, composed from settings."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from sumika.models.settings import Settings
from sumika.models.store import Store
from sumika.serving.app import create_app
from sumika.serving.clerk import ClerkProcess
from sumika.serving.http import BoundedHttp
from sumika.serving.stack import check_port, ending_with, stop_on_signals

# Objects made before the collector looks through the young ones; a request makes some 300 that live as long as it does.
_YOUNG_OBJECTS = 20_000


class _Server(uvicorn.Server):
    """uvicorn's own handlers end the process by the signal once more after it drained; a drain that went well is status 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


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


async def serve(settings: Settings, store: Store, parent: int | None, clerk: ClerkProcess | None = None) -> None:
    """Answer requests until a signal comes or the parent is gone, then drain."""
    shared = _shared_port(settings) if settings.gateway.workers > 1 else None
    if shared is None:
        check_port(settings)
    config = uvicorn.Config(
        create_app(settings, store, clerk),
        host=settings.host,
        port=settings.port,
        http=BoundedHttp,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=int(settings.gateway.drain_timeout_s),
    )
    server = _Server(config)
    _keep_for_good()
    stop = stop_on_signals()

    async def drain() -> None:
        await stop.wait()
        server.should_exit = True

    async with ending_with(parent, stop):
        draining = asyncio.create_task(drain())
        await server.serve([shared] if shared else None)
        draining.cancel()
