"""`sumika up`: supervisor, gateway and training worker as processes under one parent, started, watched and drained in order.
The same for a gateway's workers, where there are several."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

from sumika.models.errors import SumikaError
from sumika.models.settings import Settings
from sumika.serving.backoff import Backoff

log = logging.getLogger(__name__)

_ROLES = {"supervise": ["supervise"], "gateway": ["gateway"]}
_WORKER = {"worker": ["finetune", "worker"]}
_WORKER_OF_GATEWAY = ["gateway", "--one"]
# Where prometheus_client's processes leave their figures for one another.
_FIGURES = "PROMETHEUS_MULTIPROC_DIR"
# First pause, longest, and what is no crash at the start: a gateway that is away costs everybody their answers.
_RESTARTS_S = (1.0, 30.0, 20.0)
_PARENT_POLL_S = 0.5
_SLACK_S = 15.0
# A training that is told to stop ends its step and writes a checkpoint.
_SAVING_S = 120.0


async def run_stack(settings: Settings, parent: int | None) -> None:
    """Run both roles until SIGINT, SIGTERM or the end of `parent`; then drain the gateway first and end the engines after it.

    Raises:
        SumikaError: `port_taken`, when something else listens where the gateway should.
    """
    check_port(settings)
    stop = stop_on_signals()
    roles = _ROLES | (_WORKER if settings.finetune.worker else {})
    children = {role: _Child(role, command) for role, command in roles.items()}
    await _keep(children.values(), parent, stop)
    log.info("draining: running answers may end, new ones are refused")
    ending = asyncio.gather(*(child.end(_SAVING_S) for role, child in children.items() if role == "worker"))
    await children["gateway"].end(settings.gateway.drain_timeout_s + _SLACK_S)
    grace_s = settings.engine.stop_timeout_s + _SLACK_S
    if not await children["supervise"].end(grace_s):
        await _end_engines(grace_s)
    await ending
    log.info("ended")


async def run_workers(settings: Settings, parent: int | None) -> None:
    """Run `gateway.workers` gateways on one port until SIGINT, SIGTERM or the end of `parent`; then drain them.

    Raises:
        SumikaError: `port_taken`.
    """
    from prometheus_client.multiprocess import mark_process_dead  # here: a stack of one worker needs none of it

    check_port(settings)
    stop = stop_on_signals()
    figures = settings.layout.sockets / "metrics"
    shutil.rmtree(figures, ignore_errors=True)
    figures.mkdir(parents=True, mode=0o700)

    def ended(pid: int) -> None:
        mark_process_dead(pid, str(figures))  # type: ignore[no-untyped-call]

    numbers = range(1, settings.gateway.workers + 1)
    workers = [_Child(f"gateway worker {n}", _WORKER_OF_GATEWAY, {_FIGURES: str(figures)}, ended) for n in numbers]
    await _keep(workers, parent, stop)
    await asyncio.gather(*(worker.end(settings.gateway.drain_timeout_s + _SLACK_S) for worker in workers))


async def _keep(children: Iterable[_Child], parent: int | None, stop: asyncio.Event) -> None:
    """Start each and start it again when it ends, until `stop`."""
    watchers = [asyncio.create_task(child.keep()) for child in children]
    async with ending_with(parent, stop):
        await stop.wait()
    for watcher in watchers:
        watcher.cancel()
    await asyncio.gather(*watchers, return_exceptions=True)


async def _end_engines(grace_s: float) -> None:
    """Engines outlive a supervisor that was killed or had hardly begun; one whose parent is gone takes over and ends them."""
    log.info("the supervisor did not end in order; another one ends its engines")
    orphan = await _started("supervise", parent=0)
    with suppress(TimeoutError):
        await asyncio.wait_for(orphan.wait(), grace_s)


def check_port(settings: Settings) -> None:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise SumikaError(
                "port_taken",
                f"{settings.host}:{settings.port} can't be listened on ({error.strerror}). End what uses it, or set SUMIKA_PORT.",
                f"{settings.host}:{settings.port} で待ち受けできません({error.strerror})。使用中のプログラムを終了するか、SUMIKA_PORT を変えてください。",
                status=409,
            ) from None


def stop_on_signals() -> asyncio.Event:
    """An event that SIGINT and SIGTERM set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop


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


class _Child:
    """One role as a process of its own, started again when it dies."""

    def __init__(
        self,
        role: str,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        ended: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._role, self._command, self._env, self._ended = role, command, env, ended
        self._process: asyncio.subprocess.Process | None = None

    async def keep(self) -> None:
        backoff = Backoff(*_RESTARTS_S)
        while True:
            began = time.monotonic()
            self._process = await _started(*self._command, parent=os.getpid(), env=self._env)
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
        try:
            return await asyncio.wait_for(self._process.wait(), grace_s) == 0
        except TimeoutError:
            log.error("%s did not end in %.0f s and is killed", self._role, grace_s)
            self._process.kill()
            await self._process.wait()
            return False


async def _started(*command: str, parent: int, env: Mapping[str, str] | None = None) -> asyncio.subprocess.Process:
    """In a session of its own, so that Ctrl-C reaches the parent alone, which drains in order."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sumika.cli.main",
        *command,
        "--parent",
        str(parent),
        start_new_session=True,
        env=os.environ | (env or {}),
    )
