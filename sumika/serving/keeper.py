"""Keeps one engine as wanted: starts it, adopts it, restarts it when it dies or hangs, puts it to sleep and wakes it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Literal

from sqlalchemy import Connection

from sumika.models import engines, leases, sandbox, tasks
from sumika.models.canary import Verdict
from sumika.models.engines import EngineRow
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.integrity import Integrity
from sumika.models.leases import Lease
from sumika.models.registry import Version
from sumika.models.sandbox import View
from sumika.models.settings import EngineSettings
from sumika.models.store import Store
from sumika.serving import engine_logs, liveness, process, vllm
from sumika.serving.adapters import Adapters
from sumika.serving.backoff import Backoff
from sumika.serving.engine_client import EngineClient
from sumika.serving.engine_view import EngineView
from sumika.serving.memory import Device
from sumika.serving.process import ProcessId
from sumika.serving.room import Place, Room
from sumika.serving.sleep import Sleeper
from sumika.serving.tracing import engines as traces

log = logging.getLogger(__name__)

# What the supervisor wants of an engine. `drain`: take nothing new, because it will be ended.
Aim = Literal["serve", "drain", "sleep"]

_TICK_S = 0.2
_HEALTH_EVERY_S = 2.0
_HEALTH_STRIKES = 3
# First pause, longest, and how long an engine serves that was not crashing in a loop.
_RESTARTS_S = (1.0, 60.0, 30.0)
_ROOM_EVERY_S = 1.0
_STORE_EVERY_S = 1.0
# How often to try to remove the row of an engine that has ended.
_FORGET_TRIES = 5
# What went wrong answers nobody any more; vLLM would wait for what runs in it as long as it may.
_FAILED_GRACE_S = 1.0


@dataclass(frozen=True, slots=True)
class EngineContext:
    """What every keeper needs besides its own engine. `traces_url`: where engines send their spans; `sandbox`: what they run in."""

    store: Store
    home: Home
    settings: EngineSettings
    device: Device
    lease: Lease
    room: Room
    traces_url: str | None = None
    sandbox: sandbox.Kind = "none"
    # Weights are hashed one after another: several at once would be no quicker, and take the disk from what starts.
    hashing: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "hashing"))
    _files: dict[int, Integrity] = field(default_factory=dict)

    def files_of(self, base: Version) -> Integrity:
        """One for all engines of a base, so that its weights are hashed once."""
        return self._files.setdefault(base.id, Integrity(base, self.home.artifacts / base.folder))

    @contextmanager
    def write(self, *, quiet: bool = False) -> Iterator[Connection]:
        """A write of the one supervisor that may act.

        Raises:
            SumikaError: `fenced`, when another took over; nothing is written then.
        """
        with self.store.write(quiet=quiet) as connection:
            leases.check(connection, self.lease)
            yield connection

    def check(self) -> None:
        """Check the lease without writing, which works on a full disk too.

        Raises:
            SumikaError: `fenced`; `store_unavailable`.
        """
        with self.store.read() as connection:
            leases.check(connection, self.lease, lock=False)


class Keeper:
    """One engine for one base. `run` goes on until cancelled; `aim`, `may_rest` and `adapters.wanted` are the
    supervisor's to set."""

    def __init__(self, context: EngineContext, base: Version, row: EngineRow) -> None:
        self._context = context
        self.base = base
        self.id = row.id
        self._row = row
        self._process = ProcessId(row.pid, row.pid_started) if row.pid and row.pid_started else None
        if self._process is not None:
            context.room.adopt(row.id, row.gpu, row.memory)
        self._backoff = Backoff(*_RESTARTS_S, restarts=row.restarts)
        self._ready_at: float | None = None
        self._client: EngineClient | None = None
        self._sleeper = Sleeper(context.room, row.id)
        self._wake = asyncio.Event()
        self._view = EngineView(context.home, row.id, base)
        self._files = context.files_of(base)
        self._hashing: asyncio.Future[None] | None = None
        self._hashing_ends = Event()
        self.adapters = Adapters(context.home.artifacts, self._view.adapters)
        self.aim: Aim = "sleep" if row.state == "asleep" else "serve"
        self.may_rest: Callable[[], bool] = lambda: False
        self.state: engines.State = row.state
        self.failure: SumikaError | None = None
        self._told: str | None = None
        # What the row does not say yet, because the store takes no writes.
        self._unwritten: dict[str, object] = {}

    @property
    def ready(self) -> bool:
        return self.state == "ready"

    @property
    def folder(self) -> Path:
        return self._context.home.artifacts / self.base.folder

    @property
    def log_file(self) -> Path:
        return engine_logs.path(self._context.home.logs, self.id)

    async def run(self) -> None:
        """Level-triggered: each round looks at what is and does the next thing towards what is wanted."""
        while True:
            store_away = False
            try:
                await self._live()
            except SumikaError as error:
                if error.code == "fenced":
                    raise
                store_away = error.code == "store_unavailable"
                if not store_away:
                    self._note(error)
            finally:
                self.state = "failed"
                self.adapters.forget()
                self._stop_hashing()
                await self._drop_client()
            await self._end_process(_FAILED_GRACE_S)
            await asyncio.sleep(_STORE_EVERY_S if store_away else self._pause())
            while self.aim == "sleep":  # it gave its memory back the hard way, and is started when it is asked for
                await self._woken()

    async def stop(self) -> None:
        """End the engine for good and forget its row."""
        self.state = "stopping"
        self._report(state="stopping")
        await self._drop_client()
        await self._end_process(self._context.settings.stop_timeout_s + 5)
        for tries_left in reversed(range(_FORGET_TRIES)):
            try:
                with self._context.write() as connection:
                    engines.forget(connection, self.id)
                return
            except SumikaError as error:
                if error.code != "store_unavailable":
                    raise
                if not tries_left:  # the next supervisor finds that its process has ended
                    log.error("engine %s (%s): has ended, its row stays: %s", self.id, self.base.ref, error.en)
            await asyncio.sleep(_STORE_EVERY_S)

    async def proof(self, version: Version) -> Verdict | None:
        """The canary's verdict on an adapter that is held (see `Adapters.proof`).

        Raises:
            SumikaError: as `Adapters.proof`.
        """
        return await self.adapters.proof(self._client, version) if self._client is not None else None

    def wake(self) -> None:
        """Look at what is wanted now rather than at the next tick."""
        self._wake.set()

    async def _live(self) -> None:
        self._ready_at = None
        adopted = self._process is not None and self._process.alive()
        live = self._process if adopted and self._process is not None else await self._started()
        if adopted:
            log.info("engine %s (%s): found alive, pid %s", self.id, self.base.ref, live.pid)
        self._client = client = EngineClient(self._row.socket, tasks.of(self.base.meta))
        self._hashing_ends = Event()
        self._hashing = asyncio.get_running_loop().run_in_executor(
            self._context.hashing, self._files.check_all, self._hashing_ends
        )
        await self._become_ready(live, client, adopted)
        # One that was found serving has served since it started, for all we know: our own restart doesn't make it young again.
        self._ready_at = time.monotonic() - (live.age_s() if adopted and self._row.state == "ready" else 0.0)
        await self._serve(live, client)

    async def _started(self) -> ProcessId:
        """Raises SumikaError `broken_artifact`, before it has read a file that isn't as it was imported."""
        self._files.check_names()
        await asyncio.to_thread(self._files.check_small)
        return await self._start()

    async def _start(self) -> ProcessId:
        context = self._context
        context.check()
        Path(self._row.socket).unlink(missing_ok=True)
        try:
            place = context.room.claim(self.id, self.base, self.folder)
            argv = vllm.arguments(context.settings, context.device, self.base, self.folder, self._row.socket, place.share)
            env = vllm.environment(context.settings, context.device, self._view.cache, place.pool.uuid)
            argv, env = argv + traces.arguments(context.traces_url), env | traces.environment(context.traces_url)
            # Its processes meet on the loopback, which Landlock can't tell from other addresses.
            view = self._view.make(network=context.traces_url is not None or context.sandbox == "landlock")
            return await self._spawned(place, argv, env, view)
        except (OSError, ValueError, TypeError) as error:  # its files or its command are gone: its own trouble, nobody else's
            raise self._died(f"it can't be started ({error})", f"起動できません({error})") from error

    async def _spawned(self, place: Place, argv: Sequence[str], env: Mapping[str, str], view: View) -> ProcessId:
        """Started in a thread, since a sandbox takes a moment to make; and kept track of, also where nobody waits for it any more."""
        starting = asyncio.create_task(asyncio.to_thread(process.start, argv, env, self.log_file, self._context.sandbox, view))
        try:
            return self._tell_started(place, await asyncio.shield(starting))
        except asyncio.CancelledError:
            self._tell_started(place, await starting)
            raise

    def _tell_started(self, place: Place, started: ProcessId) -> ProcessId:
        self._process = started
        self.state = "starting"
        self._report(
            state="starting", adapters=[], pid=started.pid, pid_started=started.started, error=None,
            gpu=place.pool.gpu, memory=place.planned,
        )  # fmt: skip
        log.info("engine %s (%s): started, pid %s, log %s", self.id, self.base.ref, started.pid, self.log_file)
        return started

    async def _become_ready(self, live: ProcessId, client: EngineClient, adopted: bool) -> None:
        deadline = time.monotonic() + self._context.settings.start_timeout_s
        while not await client.healthy():
            if not live.alive():
                raise self._died("it ended while starting", "起動中に終了しました")
            if time.monotonic() > deadline:
                raise self._died("it was not ready in time", "時間内に起動しませんでした")
            await asyncio.sleep(_TICK_S)
        if adopted and self._row.state in ("asleep", "waking"):
            self.state = "asleep"  # the row of one that was waking is not believed: waking twice is no harm
            return
        await client.warm_up(str(self.base.ref))
        if not adopted and self._hashing is not None:
            await self._hashing
            await asyncio.to_thread(self._files.check_same)  # what it read is what was hashed
        if adopted:
            await self.adapters.adopt(client, set(self._row.adapters))
        while self.adapters.missing:
            await self.adapters.load_next(client)
        gpu, memory = self._context.room.settle(self.id, live)
        self.failure = None
        self.state = "ready"
        self._report(state="ready", adapters=sorted(self.adapters.held), error=None, gpu=gpu, memory=memory)
        log.info("engine %s (%s): ready with %d adapters", self.id, self.base.ref, len(self.adapters.held))

    async def _serve(self, live: ProcessId, client: EngineClient) -> None:
        """Until the engine dies, stops answering or stops generating."""
        settings = self._context.settings
        strikes, next_health = 0, time.monotonic()
        watch = liveness.until_dead(
            client, str(self.base.ref), settings, lambda: self.state == "asleep", lambda: process.worked_s(live)
        )
        pulse = asyncio.create_task(watch)
        try:
            while live.alive():
                await self._pursue_if_stored(client)
                if self._hashing is not None and self._hashing.done():
                    self._hashing.result()
                if pulse.done():
                    raise self._died("it stopped generating", "生成が止まりました")
                if time.monotonic() >= next_health:
                    strikes = 0 if await self._answers(client) else strikes + 1
                    if strikes >= _HEALTH_STRIKES:
                        raise self._died("it stopped answering", "応答しなくなりました")
                    next_health = time.monotonic() + _HEALTH_EVERY_S
                    self._forgive()
                await self._woken()
        finally:
            pulse.cancel()
        raise self._died("it ended", "終了しました")

    def _forgive(self) -> None:
        """Once it has run well for a while, nobody need be told of restarts any more."""
        if self._backoff.restarts and self._served_s() > self._backoff.steady_s:
            self._backoff.restarts = 0
            self._report(restarts=0)

    async def _pursue_if_stored(self, client: EngineClient) -> None:
        """While the store takes no writes, everything stays as the gateways know it, and is tried again."""
        if self._unwritten:
            self._report()
        try:
            await self._pursue(client)
        except SumikaError as error:
            if error.code != "store_unavailable":
                raise

    async def _pursue(self, client: EngineClient) -> None:
        """The next thing towards what is wanted."""
        if self.aim == "serve":
            if self.state == "asleep":
                await self._wake_up(client)
            elif self.state == "draining":
                self._become("ready")
            await self._tend(client)
        elif self.state == "ready":
            self._become("draining")
        elif self.state == "draining" and self.aim == "sleep" and self.may_rest():
            await self._sleeper.sleep(client, self.folder)
            self.state = "asleep"
            self._report(state="asleep", adapters=sorted(self.adapters.held), memory=self._context.room.promised(self.id))

    async def _wake_up(self, client: EngineClient) -> None:
        await asyncio.to_thread(self._files.check_same)  # a deep sleeper reads its weights again
        place = self._context.room.claim(self.id, self.base, self.folder)
        self._become("waking", memory=place.planned)
        await self._sleeper.wake(client)
        await self.adapters.forget_after_sleep(client, self._sleeper.keeps_weights)
        while self.adapters.missing:
            await self.adapters.load_next(client)
        if self._process is not None:
            self._context.room.settle(self.id, self._process)
        self.state = "ready"
        self._report(state="ready", adapters=sorted(self.adapters.held))

    async def _tend(self, client: EngineClient) -> None:
        while await self.adapters.load_next(client):
            self._report(adapters=sorted(self.adapters.held))
        while name := self.adapters.unneeded():
            self._write(adapters=sorted(self.adapters.held - {name}))
            self.adapters.drop(name)
            await self.adapters.unload(client, name)

    async def _answers(self, client: EngineClient) -> bool:
        try:
            if healthy := await client.healthy():
                if self.state != "asleep" and await self.adapters.believe(client):
                    self._report(adapters=sorted(self.adapters.held))
        except SumikaError as error:
            if error.code != "engine_unreachable":
                raise
            return False  # slow for once is no reason to end what it generates
        return healthy

    def kill(self) -> None:
        """End the process at once; `stop` sees to the rest."""
        if self._process is not None:
            process.kill(self._process, self._process.session())

    async def _end_process(self, grace_s: float) -> None:
        if self._process is not None:
            await process.stop(self._process, grace_s)
            self._process = None
            Path(self._row.socket).unlink(missing_ok=True)
        self._view.remove()
        self._context.room.release(self.id)

    def _stop_hashing(self) -> None:
        if self._hashing is not None:
            self._hashing_ends.set()
            self._hashing.cancel()
            self._hashing = None

    async def _woken(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_TICK_S):
                await self._wake.wait()
        self._wake.clear()

    async def _drop_client(self) -> None:
        if self._client is not None:
            with suppress(OSError):
                await self._client.close()
            self._client = None

    def _become(self, state: engines.State, **values: object) -> None:
        """Written for the gateways first: what they send must never meet an engine that will not answer.

        Raises:
            SumikaError: `store_unavailable`; the state is as it was then.
        """
        self._write(state=state, adapters=sorted(self.adapters.held), **values)
        self.state = state

    def _write(self, **values: object) -> None:
        with self._context.write() as connection:
            engines.change(connection, self.id, **self._unwritten | values)
        self._unwritten = {}

    def _report(self, **values: object) -> None:
        """Write what is so whether it is written or not: where the store takes no writes, later."""
        self._unwritten |= values
        try:
            self._write()
        except SumikaError as error:
            if error.code != "store_unavailable":
                raise

    def _note(self, error: SumikaError) -> None:
        if self.failure is None or self.failure.en != error.en:
            log.error("engine %s (%s) is not serving: %s", self.id, self.base.ref, error.en)
        self.failure = error

    def _served_s(self) -> float:
        return 0.0 if self._ready_at is None else time.monotonic() - self._ready_at

    def _pause(self) -> float:
        """Told in the store; waiting for room is no crash and is not counted as one."""
        if self.failure is not None and self.failure.code in ("no_room", "sleep_failed"):
            # Where bases share a card, somebody makes room when requests wait for this one.
            self.state = "asleep" if self._context.settings.sleep else "failed"
            if self._told != self.failure.en:
                self._report(state=self.state, adapters=[], pid=None, error=self.failure.en)
                self._told = self.failure.en
            return _ROOM_EVERY_S
        pause = self._backoff.ended(self._served_s()) * random.uniform(0.8, 1.2)
        self._told = f"{self.failure.en if self.failure else 'the engine ended'}\nTried again in {pause:.0f} s (restart {self._backoff.restarts})."
        self._report(state="failed", restarts=self._backoff.restarts, adapters=[], pid=None, error=self._told)
        return pause

    def _died(self, en: str, ja: str) -> SumikaError:
        last = process.tail(self.log_file)
        return SumikaError(
            "engine_failed",
            f"The engine for {self.base.ref} failed: {en}. Last lines of {self.log_file}:\n{last}",
            f"{self.base.ref} のエンジンに問題があります: {ja}。ログ {self.log_file} の末尾:\n{last}",
            status=503,
            retry_after=30,
        )
