"""The supervisor as a process, composed from settings; the gateway is in `gateway_role.py`, and neither loads the other."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable

from sumika.models import leases, sandbox
from sumika.models.errors import SumikaError
from sumika.models.leases import Lease
from sumika.models.outage_log import OutageLog
from sumika.models.settings import Settings
from sumika.models.store import Store
from sumika.serving import vllm
from sumika.serving.heartbeat import beating
from sumika.serving.keeper import EngineContext
from sumika.serving.memory import Device, Meter, meter
from sumika.serving.room import Room
from sumika.serving.signals import Signals, ending_with, stop_on_signals
from sumika.serving.supervisor import Supervisor

log = logging.getLogger(__name__)

_ROLE = "supervisor"
# Longer than any pause of a healthy process; a dead one is replaced after at most this.
_LEASE_S = 3.0
_RENEW_S = 0.5


async def supervise(
    settings: Settings,
    store: Store,
    parent: int | None,
    measure: Callable[[Device], Meter] = meter,
    heartbeat: int | None = None,
) -> None:
    """Keep the engines, or stand by while another supervisor does, until a signal comes or the parent is gone.

    Raises:
        SumikaError: `fenced`, when another took over: this one was paused or could not reach the store for too long.
    """
    signals = stop_on_signals()
    holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"[-64:]
    async with beating(heartbeat), ending_with(parent, signals.stop):
        lease = await _taken(store, holder, signals.stop)
        if lease is None:
            return
        device = vllm.device(settings.engine)
        room = Room(settings.engine, measure(device))
        kind = sandbox.choose(settings.engine.sandbox)
        log.info("supervisor: engines on %s, sandbox %s, home %s, token %d", device, kind, settings.layout.root, lease.token)
        if kind == "none" and settings.engine.sandbox == "auto":
            log.warning(
                "supervisor: engines run without a sandbox and read what this user reads; see docs/operations.md, 'The sandbox'"
            )
        renewing = asyncio.create_task(_renew(store, lease))
        try:
            traces = settings.telemetry.traces_url
            context = EngineContext(store, settings.layout, settings.engine, device, lease, room, traces, kind)
            supervisor = Supervisor(context)
            hurrying = asyncio.create_task(_hurry(supervisor, signals))
            await supervisor.run(signals.stop)
            hurrying.cancel()
        finally:
            renewing.cancel()
        try:
            with store.write(quiet=True) as connection:
                leases.give_back(connection, lease)
        except SumikaError as error:  # it runs out by itself
            log.error("the supervisor's lease could not be released: %s", error.en)


async def _taken(store: Store, holder: str, stop: asyncio.Event) -> Lease | None:
    """The lease, once it is free; None when told to stop while another, who is alive, holds it.

    A holder that died (`kill -9`) leaves its engines running and its lease to run out. Told to stop meanwhile, we wait for
    that, since nobody else would end them.
    """
    seen: str | None = None
    outage = OutageLog(log, "the supervisor's lease can't be acquired")
    while True:
        asked = stop.is_set()
        try:
            with store.write(quiet=True) as connection:
                lease = leases.take(connection, _ROLE, holder, _LEASE_S)
                until = leases.until(connection, _ROLE)
            outage.worked()
        except SumikaError as error:
            if asked or error.code != "store_unavailable":
                raise
            outage.failed(error)
            await asyncio.sleep(_RENEW_S)
            continue
        if lease is not None:
            return lease
        if seen is None:
            log.info("supervisor: another one is at work; standing by")
        elif asked and until != seen:  # renewed since we looked last
            return None
        seen = until
        await asyncio.sleep(_RENEW_S)


async def _hurry(supervisor: Supervisor, signals: Signals) -> None:
    """Told twice to end, engines get no time for what they generate."""
    await signals.at_once.wait()
    supervisor.kill_engines()


async def _renew(store: Store, lease: Lease) -> None:
    outage = OutageLog(log, "the supervisor's lease can't be renewed")
    while True:
        await asyncio.sleep(_RENEW_S)
        try:
            with store.write(quiet=True) as connection:
                leases.take(connection, _ROLE, lease.holder, _LEASE_S)
            outage.worked()
        except SumikaError as error:
            outage.failed(error)
