"""Open moves, driven to their end: finished as soon as every engine that serves holds and has proven the version, refused
as soon as that can't be."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from sumika.models import aliases, moves
from sumika.models.canary import Verdict
from sumika.models.errors import SumikaError
from sumika.models.moves import Move
from sumika.models.registry import Version
from sumika.serving.crew import Crew
from sumika.serving.keeper import EngineContext, Keeper

log = logging.getLogger(__name__)

_PASSING = ("engine_unreachable", "store_unavailable")


class Moving:
    """The moves that one supervisor drives."""

    def __init__(self, context: EngineContext, crew: Crew) -> None:
        self._context = context
        self._crew = crew
        self._finishing: dict[int, asyncio.Task[None]] = {}

    def advance(self, move: Move, to: Version, leaving: int | None, serves_others: Callable[[], bool]) -> None:
        """One look at one move. `leaving`: the base that makes room for it, if the move is turning back;
        `serves_others`: whether the base of `to` is wanted without this move too, so that its fault is not the move's."""
        if move.id in self._finishing:
            return
        if move.step == "returning":
            self._turn_back(move, leaving)
            return
        name, crew = str(to.ref), self._crew.of(to.engine_base_id)
        ready = [keeper for keeper in crew if keeper.ready]
        refusal = next((k.adapters.refused[name] for k in crew if name in k.adapters.refused), None)
        failure = next((k.failure for k in crew), None) if all(k.failure is not None for k in crew) else None
        if refusal is not None:
            self.refuse(move, refusal)
        elif ready and (to.kind == "base" or all(name in keeper.adapters.held for keeper in ready)):
            task = self._finishing[move.id] = self._crew.watched(self._prove_and_finish(move, to, ready))
            task.add_done_callback(lambda _: self._finishing.pop(move.id, None))
        elif not ready and failure is not None and not serves_others():
            self.refuse(move, failure)

    def refuse(self, move: Move, error: SumikaError) -> None:
        """End the move; where the old engine made room for the new one, only once it is back."""
        log.error("alias %s stays: %s", move.alias, error.en)
        with self._context.write() as connection:
            if move.step == "holding":
                moves.note_step(connection, move, "returning", error)
            else:
                moves.refuse(connection, move, error)

    async def stop(self) -> None:
        tasks = list(self._finishing.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _turn_back(self, move: Move, leaving: int | None) -> None:
        crew = self._crew.of(leaving) if leaving is not None else []
        broken = any(k.failure is not None and k.failure.code != "no_room" for k in crew)
        error = move.failure
        if error is not None and (leaving is None or broken or any(keeper.ready for keeper in crew)):
            with self._context.write() as connection:
                moves.refuse(connection, move, error)

    async def _prove_and_finish(self, move: Move, to: Version, ready: Sequence[Keeper]) -> None:
        try:
            await self._prove(move, to, ready)
        except SumikaError as error:
            if error.code not in _PASSING:  # what passes is tried again: the move is open still
                raise

    async def _prove(self, move: Move, to: Version, ready: Sequence[Keeper]) -> None:
        try:
            verdicts = [await keeper.proof(to) for keeper in ready] if to.kind == "adapter" else []
            with self._context.write() as connection:
                aliases.finish(connection, move, _told([verdict for verdict in verdicts if verdict is not None]))
            log.info("alias %s: %s %s by %s", move.alias, move.kind, move.to_ref, move.actor)
        except SumikaError as error:
            if error.code in ("fenced", *_PASSING):
                raise
            self.refuse(move, error)


def _told(verdicts: Sequence[Verdict]) -> dict[str, float | int] | None:
    """Of several engines' verdicts the one farthest from the reference; None: unproven."""
    if not verdicts:
        return None
    return max(verdicts, key=lambda verdict: verdict.from_adapter).as_dict() | {"engines": len(verdicts)}
