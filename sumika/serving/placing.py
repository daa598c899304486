"""Which engine answers a request: the least loaded that holds the version; a short wait where the base is being changed."""

from __future__ import annotations

import time
from collections.abc import Collection

from sumika.models.engines import EngineRow
from sumika.models.errors import SumikaError, not_found
from sumika.models.principals import Principal
from sumika.models.settings import GatewaySettings
from sumika.serving.directory import Directory, Route, Snapshot, Target

_RETRY_S = 10


class Placing:
    """Places requests by the directory's current snapshot, and holds those that come at the wrong moment: bounded in
    number and in time."""

    def __init__(self, directory: Directory, settings: GatewaySettings) -> None:
        self._directory = directory
        self._settings = settings
        self._held = 0

    async def place(self, principal: Principal, alias: str, without: Collection[str] = ()) -> tuple[Target, EngineRow]:
        """The version that answers, and an engine that holds it, not one of `without`.

        Nothing waits between the look at the snapshot and the return: the caller's lease is part of the same step.

        Raises:
            SumikaError: `model_not_found`; `model_not_ready` (503), `too_many_waiting` (503), `waited_too_long` (503).
        """
        found = self._look(principal, alias, without)
        if isinstance(found, tuple):
            return found
        if self._held >= self._settings.max_held:
            raise _too_many(alias)
        deadline = time.monotonic() + self._settings.hold_timeout_s
        self._held += 1
        try:
            while (left := deadline - time.monotonic()) > 0:
                with self._directory.waits(found):
                    await self._directory.moved(left)
                again = self._look(principal, alias, without, waiting=True)
                if isinstance(again, tuple):
                    return again
                found = again
        finally:
            self._held -= 1
        raise _waited(alias)

    def _look(
        self, principal: Principal, alias: str, without: Collection[str], waiting: bool = False
    ) -> tuple[Target, EngineRow] | int:
        """An engine; or the base to wait for. Who has begun to wait goes on waiting, whatever happens meanwhile."""
        snapshot = self._directory.snapshot
        route = resolve(snapshot, principal, alias)
        target = route.target(principal.id)
        held = route.holding and target is route.main
        engines = [] if held else self._engines(snapshot, target, without)
        if not engines and target is not route.main and not route.holding:
            target = route.main  # a canary that is not there costs nobody an answer
            engines = self._engines(snapshot, target, without)
        if engines:
            return target, min(engines, key=lambda engine: self._directory.load[engine.id])
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
        error = not_found(
            "model",
            "モデル",
            alias,
            "GET /v1/models lists those this key may use.",
            "このキーで使えるモデルは GET /v1/models で確認できます。",
        )
        error.code, error.param = "model_not_found", "model"
        raise error
    return route


def not_ready(route: Route) -> SumikaError:
    return SumikaError(
        "model_not_ready",
        f"'{route.alias}' is being started; try again in a moment.",
        f"「{route.alias}」は起動中です。少し待ってからやり直してください。",
        status=503,
        retry_after=_RETRY_S,
    )


def _too_many(alias: str) -> SumikaError:
    return SumikaError(
        "too_many_waiting",
        f"'{alias}' is being changed and too many requests wait already; try again in a moment.",
        f"「{alias}」は切り替え中で、待機中のリクエストが上限に達しています。少し待ってからやり直してください。",
        status=503,
        retry_after=_RETRY_S,
    )


def _waited(alias: str) -> SumikaError:
    return SumikaError(
        "waited_too_long",
        f"'{alias}' was being changed for longer than a request may wait; try again in a moment.",
        f"「{alias}」の切り替えが待機時間内に終わりませんでした。少し待ってからやり直してください。",
        status=503,
        retry_after=_RETRY_S,
    )
