"""The supervisor: the one process that starts engines, loads adapters and finishes moves.

The registry says what is wanted, the engines show what is; a loop closes the difference. Everything it must remember
stands in the store, so it can be killed at any moment and started again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from sumika.models import aliases, artifacts, engines, moves, registry, scales
from sumika.models.aliases import Alias
from sumika.models.engines import GatewayRow
from sumika.models.errors import SumikaError
from sumika.models.moves import Move
from sumika.models.outage_log import OutageLog
from sumika.models.registry import Version
from sumika.models.store import revision
from sumika.serving import engine_logs, engine_view, plan
from sumika.serving.crew import Crew
from sumika.serving.keeper import EngineContext
from sumika.serving.moving import Moving
from sumika.serving.plan import Wish
from sumika.serving.sharing import Sharing

log = logging.getLogger(__name__)

_TICK_S = 0.05
# What moves no revision (gateways' beats, engines getting ready) is looked at this often.
_LOOK_EVERY_S = 0.5
_LOGS_EVERY_S = 30.0


@dataclass(frozen=True, slots=True)
class _Seen:
    """One consistent look at the store."""

    revision: int
    pointed: list[Alias]
    moves: list[Move]
    versions: dict[int, Version]
    before: list[int]
    scales: dict[str, int]
    gateways: list[GatewayRow]

    def wishes(self, without: Move | None = None) -> dict[int, Wish]:
        return plan.wishes(self.pointed, [m for m in self.moves if m is not without], self.versions, self.before, self.scales)

    def leads_to(self, alias: str) -> Version | None:
        return next((self.versions[a.version_id] for a in self.pointed if a.name == alias), None)


class Supervisor:
    """Run by exactly one process at a time (`supervisor_role.supervise` holds the lease)."""

    def __init__(self, context: EngineContext) -> None:
        self._context = context
        self._crew = Crew(context)
        self._moving = Moving(context, self._crew)
        self._sharing = Sharing(context, self._crew)
        self._seen_revision = -1
        self._looked_at = 0.0
        self._logs_bounded_at = 0.0
        self._outage = OutageLog(log, "engines and moves stay as they are")

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the engines until `stop`; then end them."""
        self._take_over()
        try:
            while not stop.is_set():
                if self._crew.broken is not None:  # a fault of ours: end loudly and be started again; engines are adopted
                    raise self._crew.broken
                try:
                    if self._something_moved():
                        self._reconcile(self._look())
                    self._outage.worked()
                except SumikaError as error:
                    if error.code != "store_unavailable":
                        raise
                    self._outage.failed(error)  # what runs goes on running
                await self._bound_logs()
                with suppress(asyncio.TimeoutError):
                    async with asyncio.timeout(_TICK_S):
                        await stop.wait()
        except BaseException:
            await self._moving.stop()
            await self._crew.let_run()
            raise
        await self._moving.stop()
        await self._crew.end()

    def kill_engines(self) -> None:
        """While `run` ends them: at once, whatever they generate."""
        self._crew.kill()

    async def _bound_logs(self) -> None:
        if time.monotonic() - self._logs_bounded_at > _LOGS_EVERY_S:
            self._logs_bounded_at = time.monotonic()
            await asyncio.to_thread(engine_logs.bound, self._context.home.logs, [keeper.id for keeper in self._crew])

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
        engine_view.sweep(self._context.home, [row.id for row in rows])
        for row in rows:
            self._crew.adopt(row, bases[row.base_id])

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

    def _look(self) -> _Seen:
        with self._context.store.read() as connection:
            open_moves = moves.list_open(connection)
            pointed = aliases.list_all(connection)
            before = {version_id for alias in pointed if (version_id := aliases.before(connection, alias)) is not None}
            ids = {a.version_id for a in pointed} | {a.canary_id for a in pointed if a.canary_id} | {m.to_id for m in open_moves}
            versions = registry.by_ids(connection, ids | before)
            versions |= registry.by_ids(connection, {v.engine_base_id for v in versions.values()} - versions.keys())
            return _Seen(
                revision(connection),
                pointed,
                open_moves,
                versions,
                [i for i in before if versions[i].removed_at is None],
                scales.by_base(connection),
                plan.live(engines.list_gateways(connection), datetime.now(UTC)),
            )

    def _reconcile(self, seen: _Seen) -> None:
        wishes = seen.wishes()
        self._crew.let_go([keeper.base.id for keeper in self._crew if keeper.base.id not in wishes])
        for wish in wishes.values():
            for _ in range(self._crew.fit(wish)):
                if not self._may_start(wish, seen):
                    break
                self._crew.start(wish.base)
        self._sharing.wake_the_wanted(plan.waiting(seen.gateways), {seen.versions[m.to_id].engine_base_id for m in seen.moves})
        hurried = (base.id for move in seen.moves if move.step == "holding" and (base := self._left_by(move, seen)) is not None)
        self._crew.tend(wishes, seen.gateways, seen.revision, hurried)
        for move in seen.moves:
            to, left = seen.versions[move.to_id], self._left_by(move, seen)
            self._moving.advance(move, to, left.id if left else None, partial(self._serves_others, move, seen))

    @staticmethod
    def _serves_others(move: Move, seen: _Seen) -> bool:
        return seen.versions[move.to_id].engine_base_id in seen.wishes(without=move)

    def _left_by(self, move: Move, seen: _Seen) -> Version | None:
        """The base that nobody wants any more once `move` is done; None where the engines stay as they are."""
        now = seen.leads_to(move.alias)
        if now is None or move.kind == "canary" or now.engine_base_id == seen.versions[move.to_id].engine_base_id:
            return None
        others = [alias for alias in seen.pointed if alias.name != move.alias]
        wanted = plan.wishes(others, seen.moves, seen.versions)
        return None if now.engine_base_id in wanted else seen.versions[now.engine_base_id]

    def _may_start(self, wish: Wish, seen: _Seen) -> bool:
        """Whether to start another engine for `wish` now. Where there is no room, who can make some is told to.

        Where nobody can, it is started all the same: its own claim on memory tells the numbers, in `status` and to the move.
        """
        room, base = self._context.room, wish.base
        folder = self._context.home.artifacts / base.folder
        if room.lacking(base, folder) is None:
            return True
        if self._crew.leaving:
            return False
        for move in seen.moves:
            left = self._left_by(move, seen) if seen.versions[move.to_id].engine_base_id == base.id else None
            old = self._crew.of(left.id) if left is not None else []
            if move.step == "asked" and old:
                step: moves.Step = "rolling" if len(old) > 1 else "holding"
                if room.lacking(base, folder, without=[keeper.id for keeper in old[:1]]) is None:
                    with self._context.write() as connection:
                        moves.note_step(connection, move, step)
                    return False
        return not self._sharing.make_room(base, folder)
