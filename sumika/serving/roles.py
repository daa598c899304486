"""The two long-running processes, composed from settings: this file and `app.py` alone name concrete classes."""

from __future__ import annotations

import asyncio
import logging

import uvicorn

from sumika.models import locks
from sumika.models.errors import SumikaError
from sumika.models.settings import Settings
from sumika.models.store import Store
from sumika.serving import vllm
from sumika.serving.app import create_app
from sumika.serving.keeper import EngineContext
from sumika.serving.stack import check_port, ending_with, stop_on_signals
from sumika.serving.supervisor import Supervisor

log = logging.getLogger(__name__)


async def supervise(settings: Settings, store: Store, parent: int | None) -> None:
    """Keep the engines until a signal comes or the parent is gone.

    Raises:
        SumikaError: `already_running`.
    """
    home = settings.layout
    with locks.held(home.root / "supervisor.lock", wait=False) as alone:
        if not alone:
            raise SumikaError(
                "already_running",
                f"A supervisor already runs for {home.root}. Use it, or end it first ('sumika status' shows it).",
                f"{home.root} の supervisor はすでに動いています。そのまま使うか、先に終了してください。",
                status=409,
            )
        stop = stop_on_signals()
        device = vllm.device(settings.engine)
        log.info("supervisor: engines on %s, home %s", device, home.root)
        supervisor = Supervisor(EngineContext(store, home, settings.engine, device))
        async with ending_with(parent, stop):
            await supervisor.run(stop)


async def serve(settings: Settings, store: Store, parent: int | None) -> None:
    """Answer requests until a signal comes or the parent is gone, then drain."""
    check_port(settings)
    config = uvicorn.Config(
        create_app(settings, store),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=int(settings.gateway.drain_timeout_s),
    )
    server = uvicorn.Server(config)
    stop = asyncio.Event()

    async def drain() -> None:
        await stop.wait()
        server.should_exit = True

    async with ending_with(parent, stop):
        draining = asyncio.create_task(drain())
        await server.serve()
        draining.cancel()
