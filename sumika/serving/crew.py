"""The engines of one supervisor: as many for each base as wished, ended when nobody needs or uses them."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from typing import Any

from sumika.models import engines
from sumika.models.engines import EngineRow, GatewayRow
from sumika.models.registry import Version
from sumika.serving import plan
from sumika.serving.keeper import EngineContext, Keeper
from sumika.serving.plan import Wish

log = logging.getLogger(__name__)


class Crew:
    """Keepers and their tasks. A fault in any task is remembered in `broken`: the supervisor ends with it, loudly."""

    def __init__(self, context: EngineContext) -> None:
        self._context = context
        self._keepers: dict[str, Keeper] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._retiring: dict[asyncio.Task[None], Keeper] = {}
        # At which revision, and when, an engine or an adapter on it was first seen to be wanted no longer.
        self._since: dict[tuple[str, str], tuple[int, float]] = {}
        self.broken: BaseException | None = None

    def __iter__(self) -> Iterator[Keeper]:
        return iter(list(self._keepers.values()))

    def of(self, base_id: int) -> list[Keeper]:
        """The engines of a base that are not on their way out, the oldest first."""
        return [k for k in self._keepers.values() if k.base.id == base_id and k.aim != "drain"]

    @property
    def leaving(self) -> bool:
        """Whether some engine is about to give its memory back."""
        return bool(self._retiring) or any(k.aim == "drain" for k in self._keepers.values())

    def adopt(self, row: EngineRow, base: Version) -> None:
        keeper = Keeper(self._context, base, row)
        if row.state == "stopping":
            self._end(keeper)
        else:
            self._keep(keeper)

    def start(self, base: Version) -> None:
        engine_id = secrets.token_hex(4)
        with self._context.write() as connection:
            row = engines.add(connection, engine_id, base.id, str(self._context.home.sockets / f"engine-{engine_id}.sock"))
        self._keep(Keeper(self._context, base, row))

    def fit(self, wish: Wish) -> int:
        """Drain what is too many for a wish and take back what is too few; how many are missing still."""
        staying = self.of(wish.base.id)
        for keeper in sorted(staying, key=lambda k: k.ready, reverse=True)[wish.replicas :]:
            keeper.aim = "drain"
        missing = wish.replicas - len(staying)
        for keeper in self._keepers.values():
            if missing > 0 and keeper.base.id == wish.base.id and keeper.aim == "drain":
                keeper.aim, missing = "serve", missing - 1
        return max(0, missing)

    def let_go(self, unwanted: Sequence[int]) -> None:
        """Bases that nobody wants: their engines take nothing new."""
        for keeper in self._keepers.values():
            if keeper.base.id in unwanted:
                keeper.aim, keeper.adapters.wanted = "drain", {}

    def tend(self, wishes: dict[int, Wish], gateways: Sequence[GatewayRow], revision: int, hurried: Iterable[int]) -> None:
        """Tell every engine what to hold; end those that were drained. `hurried`: bases whose engines are ended after
        `drain_timeout_s` even if they still answer, because requests wait for what comes after them."""
        self._note(wishes, revision)
        hurry = set(hurried)
        for keeper in list(self._keepers.values()):
            keeper.adapters.may_unload = lambda name, k=keeper: self._unused(k, name, gateways)  # type: ignore[misc]
            keeper.may_rest = lambda k=keeper: self._unused(k, "", gateways)  # type: ignore[misc]
            wish = wishes.get(keeper.base.id)
            if wish is not None and keeper.adapters.wanted != wish.adapters:
                keeper.adapters.wanted = wish.adapters
                keeper.wake()
            late = keeper.base.id in hurry and self._age(keeper) > self._context.settings.drain_timeout_s
            if keeper.aim == "drain" and (keeper.state in ("failed", "asleep") or late or self._unused(keeper, "", gateways)):
                self._end(self._keepers.pop(keeper.id), self._tasks.pop(keeper.id))

    async def let_run(self) -> None:
        """Stop our own work and leave the engines running for the supervisor after us."""
        tasks = [*self._tasks.values(), *self._retiring]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def kill(self) -> None:
        for keeper in [*self._keepers.values(), *self._retiring.values()]:
            keeper.kill()

    async def end(self) -> None:
        keepers = [*self._keepers.values(), *self._retiring.values()]
        await self.let_run()
        await asyncio.gather(*(keeper.stop() for keeper in keepers))

    def watched(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(self._note_fault)
        return task

    def _keep(self, keeper: Keeper) -> None:
        self._keepers[keeper.id] = keeper
        self._tasks[keeper.id] = self.watched(keeper.run())

    def _end(self, keeper: Keeper, *running: asyncio.Task[None]) -> None:
        async def end() -> None:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await keeper.stop()
            log.info("engine %s (%s): no longer wanted, ended", keeper.id, keeper.base.ref)

        retiring = self.watched(end())
        self._retiring[retiring] = keeper
        retiring.add_done_callback(lambda task: self._retiring.pop(task, None))

    def _note_fault(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.broken = task.exception()

    def _note(self, wishes: dict[int, Wish], revision: int) -> None:
        now, unwanted = time.monotonic(), set()
        for keeper in self._keepers.values():
            wish = wishes.get(keeper.base.id)
            # A base that nobody wants is not routed to; one of several engines, or one that is to sleep, once it drains.
            if wish is None or keeper.state == "draining":
                unwanted.add((keeper.id, ""))
            wanted = wish.adapters.keys() if wish else ()
            unwanted |= {(keeper.id, name) for name in keeper.adapters.held if name not in wanted}
        self._since = {key: self._since.get(key, (revision, now)) for key in unwanted}

    def _unused(self, keeper: Keeper, name: str, gateways: Sequence[GatewayRow]) -> bool:
        since = self._since.get((keeper.id, name))
        return since is not None and plan.unused(keeper.id, since[0], gateways, name or None)

    def _age(self, keeper: Keeper) -> float:
        since = self._since.get((keeper.id, ""))
        return time.monotonic() - since[1] if since else 0.0
