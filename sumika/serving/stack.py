"""`sumika up`: supervisor, gateway and training worker as processes under one parent, started, watched and drained in order.
The same for a gateway's workers."""

from __future__ import annotations

import asyncio
import logging
import shutil
import socket
from collections.abc import Collection, Coroutine, Iterable
from contextlib import suppress
from typing import Any

from sumika.models.errors import SumikaError
from sumika.models.settings import GatewaySettings, Settings
from sumika.serving.child import Child, start
from sumika.serving.heartbeat import beating
from sumika.serving.signals import Signals, ending_with, stop_on_signals

log = logging.getLogger(__name__)

_WORKER_OF_GATEWAY = ["gateway", "--one"]
# Where prometheus_client's processes leave their figures for one another.
_FIGURES = "PROMETHEUS_MULTIPROC_DIR"
_SLACK_S = 15.0
# A request may hold a gateway's loop for some hundred milliseconds. The supervisor waits for its store, which may be slow;
# nobody's answer waits for it.
_GATEWAY_HUNG_AFTER_S = 10
_SUPERVISOR_HUNG_AFTER_S = 60
# A training that is told to stop ends its step and writes a checkpoint.
_SAVING_S = 120.0


async def run_stack(settings: Settings, parent: int | None) -> None:
    """Run all roles until SIGINT, SIGTERM or the end of `parent`; then drain the gateway first and end the engines after it.
    A second signal ends all of it at once.

    Raises:
        SumikaError: `port_taken`, when something else listens where the gateway should.
    """
    check_port(settings)
    signals = stop_on_signals()
    # The parent of one worker would be one process too many.
    gateway = Child(
        "gateway", _WORKER_OF_GATEWAY if settings.gateway.workers == 1 else ["gateway"], hung_after_s=_GATEWAY_HUNG_AFTER_S
    )
    supervisor = Child("supervise", ["supervise"], hung_after_s=_SUPERVISOR_HUNG_AFTER_S)
    trainings = [Child("worker", ["finetune", "worker"], hung_after_s=None)] if settings.finetune.worker else []
    children = [supervisor, gateway, *trainings]
    await _keep(children, parent, signals)
    log.info("draining: running answers may end, new ones are refused")
    await _ending(_end_stack(settings, gateway, supervisor, trainings), children, signals)
    log.info("ended")


async def _end_stack(settings: Settings, gateway: Child, supervisor: Child, trainings: Iterable[Child]) -> None:
    saving = asyncio.gather(*(child.end(_SAVING_S) for child in trainings))
    await gateway.end(_gateway_grace_s(settings.gateway))
    grace_s = settings.engine.stop_timeout_s + _SLACK_S
    if not await supervisor.end(grace_s):
        await _end_engines(grace_s)
    await saving


async def run_workers(settings: Settings, parent: int | None, heartbeat: int | None = None) -> None:
    """Run `gateway.workers` gateways on one port until SIGINT, SIGTERM or the end of `parent`; then drain them.

    Raises:
        SumikaError: `port_taken`.
    """
    check_port(settings)
    signals = stop_on_signals()
    workers = list(_several(settings)) if settings.gateway.workers > 1 else [_gateway_worker("gateway worker")]
    async with beating(heartbeat):
        await _keep(workers, parent, signals)
        await _ending(_end_all(workers, _gateway_grace_s(settings.gateway)), workers, signals)


def _several(settings: Settings) -> Iterable[Child]:
    from prometheus_client.multiprocess import mark_process_dead  # here: a stack of one worker needs none of it

    figures = settings.layout.sockets / "metrics"
    shutil.rmtree(figures, ignore_errors=True)
    figures.mkdir(parents=True, mode=0o700)

    def ended(pid: int) -> None:
        mark_process_dead(pid, str(figures))  # type: ignore[no-untyped-call]

    for number in range(1, settings.gateway.workers + 1):
        yield _gateway_worker(f"gateway worker {number}", env={_FIGURES: str(figures)}, ended=ended)


def _gateway_worker(role: str, **options: Any) -> Child:
    return Child(role, _WORKER_OF_GATEWAY, hung_after_s=_GATEWAY_HUNG_AFTER_S, **options)


def _gateway_grace_s(gateway: GatewaySettings) -> float:
    return gateway.shutdown_delay_s + gateway.drain_timeout_s + _SLACK_S


async def _end_all(children: Iterable[Child], grace_s: float) -> None:
    await asyncio.gather(*(child.end(grace_s) for child in children))


async def _keep(children: Iterable[Child], parent: int | None, signals: Signals) -> None:
    """Start each and start it again when it ends, until `signals.stop`."""
    watchers = [asyncio.create_task(child.keep()) for child in children]
    async with ending_with(parent, signals.stop):
        await signals.stop.wait()
    for watcher in watchers:
        watcher.cancel()
    await asyncio.gather(*watchers, return_exceptions=True)


async def _ending(work: Coroutine[Any, Any, None], children: Collection[Child], signals: Signals) -> None:
    """Do `work`, which ends `children`; once a second signal comes, none of them is waited for."""
    ending = asyncio.create_task(work)
    again = asyncio.create_task(signals.at_once.wait())
    await asyncio.wait({ending, again}, return_when=asyncio.FIRST_COMPLETED)
    if again.done():
        log.warning("told again to end: what still runs is cut")
        for child in children:
            child.hurry()
    again.cancel()
    await ending


async def _end_engines(grace_s: float) -> None:
    """Engines outlive a supervisor that was killed or had hardly begun; one whose parent is gone takes over and ends them."""
    log.info("the supervisor did not end in order; another one ends its engines")
    orphan = await start("supervise", parent=0)
    with suppress(TimeoutError):
        async with asyncio.timeout(grace_s):
            await orphan.wait()


def check_port(settings: Settings) -> None:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise SumikaError(
                "port_taken",
                f"{settings.url} can't be listened on ({error.strerror}). End what uses it, or set SUMIKA_PORT.",
                f"{settings.url} で待ち受けできません({error.strerror})。使用中のプログラムを終了するか、SUMIKA_PORT を変えてください。",
                status=409,
            ) from None
