"""Which engine answers a request: the least loaded that holds the version; a short wait where the base is being changed."""

from __future__ import annotations

import difflib
import time
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from sumika.models.engines import EngineRow
from sumika.models.errors import SumikaError, not_found
from sumika.models.principals import Principal
from sumika.models.settings import GatewaySettings
from sumika.serving.directory import Directory, Route, Snapshot, Target
from sumika.serving.fair_queue import Turn
from sumika.serving.waiting_room import RETRY_S, WaitingRoom, too_many, waited

# Aliases that a refusal names, those it looks at for a guess, and characters of one.
_NAMED, _COMPARED, _LONGEST_ALIAS = 10, 200, 64


class Placing:
    """Places requests by the directory's current snapshot, and holds those that come at the wrong moment, bounded in number
    and in time: while a base is being changed, and while every engine has as many as it may."""

    def __init__(self, directory: Directory, settings: GatewaySettings) -> None:
        self._directory = directory
        self._settings = settings
        self._held = 0
        self._room = WaitingRoom(settings.max_queued)
        directory.when_moved(self._room.admit_all)

    @property
    def queued(self) -> int:
        """Requests that wait for an engine with room."""
        return len(self._room)

    @contextmanager
    def lease(self, engine: EngineRow, version: str) -> Iterator[None]:
        """Count a request on an engine for as long as it runs; then the next one's turn comes."""
        try:
            with self._directory.lease(engine.id, version):
                yield
        finally:
            self._room.admit(engine.base_id)

    async def place(
        self, principal: Principal, alias: str, turn: Turn, without: Collection[str] = ()
    ) -> tuple[Target, EngineRow]:
        """The version that answers, and an engine that holds it and has room, not one of `without`.

        Nothing waits between the look at the snapshot and the return: the caller's lease is part of the same step.

        Raises:
            SumikaError: `model_not_found`; `model_not_ready` (503), `too_many_waiting` (503), `waited_too_long` (503).
        """
        deadline = time.monotonic() + self._settings.hold_timeout_s
        promised: str | None = None
        while True:
            found = self._look(principal, alias, without)
            if isinstance(found, int):
                found = await self._hold(principal, alias, without, found, deadline)
            target, engines = found
            engine = next((e for e in engines if e.id == promised), None) or self._roomy(engines)
            if engine is not None:
                return target, engine
            fits = partial(self._room_for, principal, alias, without)
            promised = await self._room.turn(target.base_id, alias, turn, fits, deadline)

    async def _hold(
        self, principal: Principal, alias: str, without: Collection[str], base_id: int, deadline: float
    ) -> tuple[Target, list[EngineRow]]:
        """Wait until a base that is being changed is there."""
        if self._held >= self._settings.max_held:
            raise too_many(alias)
        self._held += 1
        try:
            while (left := deadline - time.monotonic()) > 0:
                with self._directory.waits(base_id):
                    await self._directory.moved(left)
                again = self._look(principal, alias, without, waiting=True)
                if isinstance(again, tuple):
                    return again
                base_id = again
        finally:
            self._held -= 1
        raise waited(alias)

    def _room_for(self, principal: Principal, alias: str, without: Collection[str]) -> tuple[bool, str | None]:
        """Whether a waiter should go on, and to which engine; None: it must look again by itself."""
        try:
            found = self._look(principal, alias, without)
        except SumikaError:
            return True, None
        if isinstance(found, int):
            return True, None
        engine = self._roomy(found[1])
        return engine is not None, engine.id if engine is not None else None

    def _roomy(self, engines: Sequence[EngineRow]) -> EngineRow | None:
        """The least loaded, if it may have one more."""
        best = min(engines, key=self._load)
        return best if self._load(best) < self._settings.max_running_per_engine else None

    def _load(self, engine: EngineRow) -> int:
        return self._directory.load[engine.id] + self._room.promised[engine.id]

    def _look(
        self, principal: Principal, alias: str, without: Collection[str], waiting: bool = False
    ) -> tuple[Target, list[EngineRow]] | int:
        """Engines; or the base to wait for. Who has begun to wait goes on waiting, whatever happens meanwhile."""
        snapshot = self._directory.snapshot
        route = resolve(snapshot, principal, alias)
        target = route.target(principal.id)
        held = route.holding and target is route.main
        engines = [] if held else self._engines(snapshot, target, without)
        if not engines and target is not route.main and not route.holding:
            target = route.main  # a canary that is not there costs nobody an answer
            engines = self._engines(snapshot, target, without)
        if engines:
            return target, engines
        if held or waiting or snapshot.changing(target.base_id):
            return target.base_id
        raise not_ready(route)

    @staticmethod
    def _engines(snapshot: Snapshot, target: Target, without: Collection[str]) -> list[EngineRow]:
        return [engine for engine in snapshot.ready_engines(target) if engine.id not in without]


def resolve(snapshot: Snapshot, principal: Principal, alias: str) -> Route:
    """Raises SumikaError `model_not_found` (404), the same for an alias that is not there and one the key may not use."""
    route = snapshot.routes.get(alias)
    if route is None or not principal.may_use(alias):
        raise _no_model(alias, [name for name in sorted(snapshot.routes) if principal.may_use(name)])
    return route


def _no_model(alias: str, usable: Sequence[str]) -> SumikaError:
    """Names what the key may use, and of that what was perhaps meant."""
    meant = unicodedata.normalize("NFKC", alias[:_LONGEST_ALIAS]).lower()
    close = difflib.get_close_matches(meant, usable[:_COMPARED], n=1)
    guess_en, guess_ja = (f"Did you mean '{close[0]}'? ", f"「{close[0]}」のことですか。") if close else ("", "")
    named, more = ", ".join(usable[:_NAMED]), len(usable) - _NAMED
    if not usable:
        next_en, next_ja = "This key may use no model that is there.", "このキーで使えるモデルはありません。"
    elif more > 0:
        next_en = f"This key may use {named} and {more} more; GET /v1/models lists them."
        next_ja = f"このキーで使えるモデル: {named} ほか {more} 件(一覧: GET /v1/models)。"
    else:
        next_en, next_ja = f"This key may use {named}.", f"このキーで使えるモデル: {named}。"
    error = not_found("model", "モデル", alias, guess_en + next_en, guess_ja + next_ja)
    error.code, error.param = "model_not_found", "model"
    return error


def not_ready(route: Route) -> SumikaError:
    return SumikaError(
        "model_not_ready",
        f"'{route.alias}' is being started; try again in a moment.",
        f"「{route.alias}」は起動中です。少し待ってからやり直してください。",
        status=503,
        retry_after=RETRY_S,
    )
