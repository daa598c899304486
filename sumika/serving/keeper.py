"""Keeps one engine as wanted: starts it, adopts it, restarts it when it dies, loads what it should hold, unloads the rest."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from sumika.models import canary, engines, leases
from sumika.models.canary import Verdict
from sumika.models.engines import EngineRow
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.leases import Lease
from sumika.models.registry import Version
from sumika.models.settings import EngineSettings
from sumika.models.store import Store
from sumika.serving import process, vllm
from sumika.serving.engine_client import EngineClient
from sumika.serving.process import ProcessId

log = logging.getLogger(__name__)

_TICK_S = 0.2
_HEALTH_EVERY_S = 2.0
_HEALTH_STRIKES = 3
_BACKOFF_S = (1.0, 60.0)
_REFUSED_RETRY_S = 10.0
_NOT_THE_ENGINES_FAULT = ("fenced", "store_unavailable")
# An engine that stayed up this long was not crashing in a loop.
_STEADY_S = 120.0


@dataclass(frozen=True, slots=True)
class EngineContext:
    """What every keeper needs besides its own engine."""

    store: Store
    home: Home
    settings: EngineSettings
    device: vllm.Device
    lease: Lease

    @contextmanager
    def write(self, *, quiet: bool = False) -> Iterator[Connection]:
        """A write of the one supervisor that may act.

        Raises:
            SumikaError: `fenced`, when another took over; nothing is written then.
        """
        with self.store.write(quiet=quiet) as connection:
            leases.check(connection, self.lease)
            yield connection


class Keeper:
    """One engine for one base. `run` goes on until cancelled; `adapters` and `unused` are set by the supervisor."""

    def __init__(self, context: EngineContext, base: Version, row: EngineRow) -> None:
        self._context = context
        self.base = base
        self.id = row.id
        self._socket = row.socket
        self._process = ProcessId(row.pid, row.pid_started) if row.pid and row.pid_started else None
        self._restarts = row.restarts
        self._client: EngineClient | None = None
        self.wanted: Mapping[str, Version] = {}
        self.may_unload: Callable[[str], bool] = lambda _: False
        self.loaded: set[str] = set()
        self.refused: dict[str, SumikaError] = {}
        self._retry_at: dict[str, float] = {}
        self.ready = False
        self.failure: SumikaError | None = None
        self._proven: dict[str, Verdict] = {}
        self._wake = asyncio.Event()

    @property
    def log_file(self) -> Path:
        return self._context.home.logs / f"engine-{self.id}.log"

    async def run(self) -> None:
        """Level-triggered: each round looks at what is and does the next thing towards what is wanted."""
        while True:
            try:
                live, client = self._running_or_started(), self._connect()
                await self._become_ready(live, client)
                started = time.monotonic()
                await self._serve(live, client)
                if time.monotonic() - started > _STEADY_S:
                    self._restarts = 0
            except SumikaError as error:
                if error.code in _NOT_THE_ENGINES_FAULT:
                    raise
                self.failure = error
                log.error("engine %s (%s) is not serving: %s", self.id, self.base.ref, error.en)
            finally:
                self.ready, self.loaded, self._proven = False, set(), {}
                await self._drop_client()
            await self._end_process()
            self._restarts += 1
            pause = self._pause()
            self._write(state="failed", restarts=self._restarts, adapters=[], pid=None, error=self._why(pause))
            await asyncio.sleep(pause)

    async def stop(self) -> None:
        """End the engine for good and forget its row."""
        self.ready = False
        self._write(state="stopping")
        await self._drop_client()
        await self._end_process()
        with self._context.write() as connection:
            engines.forget(connection, self.id)
        Path(self._socket).unlink(missing_ok=True)

    async def prove(self, version: Version) -> Verdict | None:
        """The canary: what the engine says of this adapter against its reference; None where it has none.

        Proven once for each load: an adapter that stayed loaded since is not asked again.

        Raises:
            SumikaError: `canary_base`, `canary_differs`, `canary_failed`, `engine_unreachable`.
        """
        name = str(version.ref)
        prompts = canary.load(self._context.home.artifacts / version.folder)
        if prompts is None or self._client is None:
            return None
        if name not in self._proven:
            verdict = canary.judge(version.ref, prompts, await self._client.log_probabilities(name, prompts))
            self._proven[name] = verdict
        return self._proven[name]

    def _running_or_started(self) -> ProcessId:
        if self._process is not None and self._process.alive():
            log.info("engine %s (%s): found alive, pid %s", self.id, self.base.ref, self._process.pid)
            return self._process
        return self._start()

    def _connect(self) -> EngineClient:
        self._client = EngineClient(self._socket)
        return self._client

    async def _become_ready(self, live: ProcessId, client: EngineClient) -> None:
        deadline = time.monotonic() + self._context.settings.start_timeout_s
        while not await client.healthy():
            if not live.alive():
                raise self._died("it ended while starting", "起動中に終了しました")
            if time.monotonic() > deadline:
                raise self._died("it was not ready in time", "時間内に起動しませんでした")
            await asyncio.sleep(_TICK_S)
        await client.warm_up(str(self.base.ref))
        self.loaded = await client.adapters()
        await self._load_wanted(client)
        self.ready, self.failure = True, None
        self._write(state="ready", adapters=sorted(self.loaded), error=None)
        log.info("engine %s (%s): ready with %d adapters", self.id, self.base.ref, len(self.loaded))

    def _start(self) -> ProcessId:
        context = self._context
        Path(self._socket).unlink(missing_ok=True)
        folder = context.home.artifacts / self.base.folder
        try:
            argv = vllm.arguments(context.settings, context.device, self.base, folder, self._socket)
            self._process = process.start(argv, vllm.environment(context.settings, context.device, context.home), self.log_file)
        except (OSError, ValueError, TypeError) as error:  # its files or its command are gone: its own trouble, nobody else's
            raise self._died(f"it can't be started ({error})", f"起動できません({error})") from error
        self._write(state="starting", adapters=[], pid=self._process.pid, pid_started=self._process.started, error=None)
        log.info("engine %s (%s): started, pid %s, log %s", self.id, self.base.ref, self._process.pid, self.log_file)
        return self._process

    async def _serve(self, live: ProcessId, client: EngineClient) -> None:
        """Until the engine dies or stops answering."""
        strikes, next_health = 0, time.monotonic()
        while live.alive():
            await self._load_wanted(client)
            await self._unload_unwanted(client)
            if time.monotonic() >= next_health:
                strikes = 0 if await self._answers(client) else strikes + 1
                if strikes >= _HEALTH_STRIKES:
                    raise self._died("it stopped answering", "応答しなくなりました")
                next_health = time.monotonic() + _HEALTH_EVERY_S
            await self._woken()
        raise self._died("it ended", "終了しました")

    async def _answers(self, client: EngineClient) -> bool:
        try:
            if healthy := await client.healthy():
                await self._believe(client)
        except SumikaError as error:
            if error.code != "engine_unreachable":
                raise
            return False  # slow for once is no reason to end what it generates
        return healthy

    async def _believe(self, client: EngineClient) -> None:
        """What the engine says it holds goes before what we remember of it."""
        held = await client.adapters()
        if held != self.loaded:
            log.warning("engine %s holds %s, not %s", self.id, sorted(held), sorted(self.loaded))
            self._proven = {name: verdict for name, verdict in self._proven.items() if name in held}
            self.loaded = held
            self._write(adapters=sorted(held))

    async def _load_wanted(self, client: EngineClient) -> None:
        for name, version in self.wanted.items():
            if name in self.loaded or time.monotonic() < self._retry_at.get(name, 0):
                continue
            try:
                await client.load_adapter(name, self._context.home.artifacts / version.folder)
            except SumikaError as error:
                if error.code != "adapter_refused":
                    raise
                self.refused[name] = error
                self._retry_at[name] = time.monotonic() + _REFUSED_RETRY_S
                log.error("engine %s: %s", self.id, error.en)
                continue
            self.loaded.add(name)
            self.refused.pop(name, None)
            self._write(adapters=sorted(self.loaded))
            log.info("engine %s: loaded %s", self.id, name)
        for name in self._retry_at.keys() - self.wanted.keys():
            del self._retry_at[name]
            self.refused.pop(name, None)

    async def _unload_unwanted(self, client: EngineClient) -> None:
        for name in sorted(self.loaded - self.wanted.keys()):
            if self.may_unload(name):
                self.loaded.discard(name)
                self._proven.pop(name, None)
                self._write(adapters=sorted(self.loaded))
                await client.unload_adapter(name)
                log.info("engine %s: unloaded %s", self.id, name)

    async def _end_process(self) -> None:
        if self._process is not None:
            await process.stop(self._process, self._context.settings.stop_timeout_s + 5)
            self._process = None

    def wake(self) -> None:
        """Look at what is wanted now rather than at the next tick."""
        self._wake.set()

    async def _woken(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), _TICK_S)
        self._wake.clear()

    async def _drop_client(self) -> None:
        if self._client is not None:
            with suppress(OSError):
                await self._client.close()
            self._client = None

    def _write(self, **values: object) -> None:
        with self._context.write() as connection:
            engines.change(connection, self.id, **values)

    def _pause(self) -> float:
        low, high = _BACKOFF_S
        doubled: float = low * 2 ** min(self._restarts - 1, 10)
        return min(high, doubled) * random.uniform(0.8, 1.2)

    def _why(self, pause: float) -> str:
        reason = self.failure.en if self.failure else "the engine ended"
        return f"{reason}\nTried again in {pause:.0f} s (restart {self._restarts})."

    def _died(self, en: str, ja: str) -> SumikaError:
        last = process.tail(self.log_file)
        return SumikaError(
            "engine_failed",
            f"The engine for {self.base.ref} failed: {en}. Last lines of {self.log_file}:\n{last}",
            f"{self.base.ref} のエンジンに問題があります: {ja}。ログ {self.log_file} の末尾:\n{last}",
            status=503,
            retry_after=30,
        )
