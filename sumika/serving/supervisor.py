"""The supervisor: the one process that starts engines, loads adapters and finishes moves.

The registry says what is wanted, the engines show what is; a loop closes the difference. Everything it must remember
stands in the store, so it can be killed at any moment and started again.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sumika.models import aliases, artifacts, engines, registry
from sumika.models.aliases import Move
from sumika.models.engines import EngineRow, GatewayRow
from sumika.models.errors import SumikaError
from sumika.models.registry import Version
from sumika.models.store import revision
from sumika.serving import plan
from sumika.serving.keeper import EngineContext, Keeper

log = logging.getLogger(__name__)

_TICK_S = 0.05
# What moves no revision (gateways' beats, engines getting ready) is looked at this often.
_LOOK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class _Seen:
    """One consistent look at the store."""

    revision: int
    wishes: dict[int, plan.Wish]
    moves: list[Move]
    versions: dict[int, Version]
    gateways: list[GatewayRow]


class Supervisor:
    """Run by exactly one process at a time (`roles.supervise` holds the lease)."""

    def __init__(self, context: EngineContext) -> None:
        self._context = context
        self._keepers: dict[int, Keeper] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._moving: dict[int, asyncio.Task[None]] = {}
        self._retiring: dict[asyncio.Task[None], Keeper] = {}
        self._broken: BaseException | None = None
        self._seen_revision = -1
        self._looked_at = 0.0
        # When (at which revision) a version or base was first seen to be wanted no longer.
        self._unwanted_since: dict[str, int] = {}

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the engines until `stop`; then end them."""
        self._take_over()
        try:
            while not stop.is_set():
                if self._broken is not None:  # a fault of ours: end loudly and be started again; engines are adopted
                    raise self._broken
                try:
                    if self._something_moved():
                        self._reconcile()
                except SumikaError as error:
                    if error.code != "store_unavailable":
                        raise
                    log.error("%s", error.en)  # away for a moment: what runs goes on running
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(stop.wait(), _TICK_S)
        except BaseException:
            await self._let_go()
            raise
        await self._end_all()

    def _take_over(self) -> None:
        """Adopt the engines of a supervisor before us, and clear away what a cut-off import left."""
        with self._context.store.read() as connection:
            rows = engines.list_all(connection)
            bases = {row.base_id: registry.by_id(connection, row.base_id) for row in rows}
            workers = engines.list_gateways(connection)
        gone = {worker.id for worker in workers} - {worker.id for worker in plan.live(workers, datetime.now(UTC))}
        with self._context.write(quiet=True) as connection:
            engines.forget_gateways(connection, sorted(gone))
        for name in artifacts.sweep(self._context.home.artifacts, self._named_folders):
            log.warning("removed what an interrupted import left: %s", name)
        for row in rows:
            keeper = Keeper(self._context, bases[row.base_id], row)
            if row.state == "stopping":
                self._end(keeper)
            else:
                self._keep(keeper)

    def _something_moved(self) -> bool:
        """One cheap question a tick; the whole look only where it has an answer, or a while has passed."""
        with self._context.store.read() as connection:
            now = revision(connection)
        moved = now != self._seen_revision or time.monotonic() - self._looked_at > _LOOK_EVERY_S
        if moved:
            self._seen_revision, self._looked_at = now, time.monotonic()
        return moved

    def _named_folders(self) -> set[str]:
        with self._context.store.read() as connection:
            return registry.folders(connection)

    def _reconcile(self) -> None:
        seen = self._look()
        self._note_unwanted(seen)
        for base_id, wish in seen.wishes.items():
            keeper = self._keepers.get(base_id)
            if keeper is None:
                keeper = self._new_engine(wish.base)
            if keeper.wanted != wish.adapters:
                keeper.wanted = wish.adapters
                keeper.wake()
            keeper.may_unload = lambda name, seen=seen: self._unused(name, seen)  # type: ignore[misc]
        for base_id in self._keepers.keys() - seen.wishes.keys():
            keeper = self._keepers[base_id]
            keeper.wanted = {}
            if all(self._unused(name, seen) for name in (str(keeper.base.ref), *keeper.loaded)):
                self._retire(base_id)
        self._moving = {move_id: task for move_id, task in self._moving.items() if not task.done()}
        for move in seen.moves:
            self._advance(move, seen)

    def _look(self) -> _Seen:
        with self._context.store.read() as connection:
            moves = aliases.open_moves(connection)
            pointed = aliases.list_all(connection)
            before = {version_id for alias in pointed if (version_id := aliases.before(connection, alias)) is not None}
            ids = {a.version_id for a in pointed} | {m.to_id for m in moves} | before
            versions = {i: registry.by_id(connection, i) for i in ids}
            for base_id in {v.engine_base_id for v in versions.values()}:
                versions.setdefault(base_id, registry.by_id(connection, base_id))
            gateways = plan.live(engines.list_gateways(connection), datetime.now(UTC))
            return _Seen(
                revision(connection),
                plan.wishes(pointed, moves, versions, [i for i in before if versions[i].removed_at is None]),
                moves,
                versions,
                gateways,
            )

    def _note_unwanted(self, seen: _Seen) -> None:
        wanted = {str(w.base.ref) for w in seen.wishes.values()} | {n for w in seen.wishes.values() for n in w.adapters}
        held = {str(k.base.ref) for k in self._keepers.values()} | {n for k in self._keepers.values() for n in k.loaded}
        self._unwanted_since = {name: self._unwanted_since.get(name, seen.revision) for name in held - wanted}

    def _unused(self, name: str, seen: _Seen) -> bool:
        since = self._unwanted_since.get(name)
        return since is not None and plan.unused(name, since, seen.gateways)

    def _new_engine(self, base: Version) -> Keeper:
        engine_id = secrets.token_hex(4)
        socket = str(self._context.home.sockets / f"engine-{engine_id}.sock")
        with self._context.write() as connection:
            engines.add(connection, engine_id, base.id, socket)
        row = EngineRow(engine_id, base.id, socket, "starting", None, None, (), 0, None, "")
        return self._keep(Keeper(self._context, base, row))

    def _keep(self, keeper: Keeper) -> Keeper:
        self._keepers[keeper.base.id] = keeper
        self._tasks[keeper.base.id] = self._watched(keeper.run())
        return keeper

    def _watched(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(self._note_fault)
        return task

    def _note_fault(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._broken = task.exception()

    def _retire(self, base_id: int) -> None:
        self._end(self._keepers.pop(base_id), self._tasks.pop(base_id))

    def _end(self, keeper: Keeper, *running: asyncio.Task[None]) -> None:
        async def end() -> None:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await keeper.stop()
            log.info("engine %s (%s): no longer wanted, ended", keeper.id, keeper.base.ref)

        retiring = self._watched(end())
        self._retiring[retiring] = keeper
        retiring.add_done_callback(lambda task: self._retiring.pop(task, None))

    def _advance(self, move: Move, seen: _Seen) -> None:
        """Finish a move as soon as its engine is ready and holds it; refuse it as soon as it can't be."""
        if move.id in self._moving:
            return
        version = seen.versions[move.to_id]
        keeper = self._keepers[version.engine_base_id]
        name = str(version.ref)
        if name in keeper.refused:
            self._refuse(move, keeper.refused[name])
        elif keeper.ready and (version.kind == "base" or name in keeper.loaded):
            self._moving[move.id] = self._watched(self._prove_and_finish(move, version, keeper))
        elif keeper.failure is not None and not self._served_elsewhere(version.engine_base_id, move, seen):
            self._refuse(move, keeper.failure)

    def _served_elsewhere(self, base_id: int, move: Move, seen: _Seen) -> bool:
        """Whether this engine also serves an alias today: then its fault is not the move's, and it will be back."""
        others = [m for m in seen.moves if m.id != move.id]
        with self._context.store.read() as connection:
            pointed = aliases.list_all(connection)
            versions = seen.versions | {a.version_id: registry.by_id(connection, a.version_id) for a in pointed}
        return base_id in plan.wishes(pointed, others, versions)

    async def _prove_and_finish(self, move: Move, version: Version, keeper: Keeper) -> None:
        try:
            with self._context.write(quiet=True) as connection:
                aliases.note_step(connection, move, "proving")
            verdict = await keeper.prove(version) if version.kind == "adapter" else None
            with self._context.write() as connection:
                aliases.finish(connection, move, verdict.as_dict() if verdict else None)
            log.info("alias %s now serves %s (%s by %s)", move.alias, move.to_ref, move.kind, move.actor)
        except SumikaError as error:
            if error.code == "fenced":
                raise
            if error.code not in ("engine_unreachable", "store_unavailable"):
                self._refuse(move, error)

    def _refuse(self, move: Move, error: SumikaError) -> None:
        log.error("alias %s stays: %s", move.alias, error.en)
        with self._context.write() as connection:
            aliases.refuse(connection, move, error)

    async def _let_go(self) -> None:
        """Stop our own work and leave the engines running for the supervisor after us."""
        tasks = [*self._tasks.values(), *self._moving.values(), *self._retiring]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _end_all(self) -> None:
        keepers = [*self._keepers.values(), *self._retiring.values()]
        await self._let_go()
        await asyncio.gather(*(keeper.stop() for keeper in keepers))
