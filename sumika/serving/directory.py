"""What a gateway worker knows: routes, engines and keys as one immutable snapshot, reread when the store moves.

Requests read the snapshot and never the store, so the database is not on their path.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sumika.models import aliases, clock, controls, engines, keys, limits, moves, registry, tasks, teams
from sumika.models.aliases import Alias
from sumika.models.control_text import ControlText
from sumika.models.engines import EngineRow, GatewayRow
from sumika.models.errors import SumikaError
from sumika.models.limits import Limits
from sumika.models.outage_log import OutageLog
from sumika.models.registry import Kind, Version
from sumika.models.store import Store, revision
from sumika.models.tasks import Task
from sumika.models.usage.table import Subject
from sumika.serving import known_keys
from sumika.serving.known_keys import KnownKeys

log = logging.getLogger(__name__)

_POLL_S = 0.05
_BEAT_S = 1.0
# Without an answer of the store for so long, it is unavailable.
_SILENT_S = 3.0
_ASIDE = ("draining", "asleep", "waking")


@dataclass(frozen=True, slots=True)
class Target:
    """A version as a request meets it: what vLLM is told, the base whose engines hold it, and what that base can do.
    `context`: tokens that prompt and answer may have together; None where only the engine knows. `controls` finds the base's control
    tokens in a text."""

    version: str
    kind: Kind
    base_id: int
    task: Task = "chat"
    tools: bool = False
    reasoning: bool = False
    context: int | None = None
    controls: ControlText | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """Where an alias leads now: to `main`, and for `share` percent of the keys to `canary`. `moved_at` is when it came to
    lead there; while `holding`, its requests wait because its base is being changed."""

    alias: str
    main: Target
    moved_at: datetime
    canary: Target | None = None
    share: int = 0
    holding: bool = False

    def target(self, key_id: str) -> Target:
        """The same for a key each time (`aliases.has_canary`)."""
        return self.canary if self.canary and aliases.has_canary(self.alias, key_id, self.share) else self.main


@dataclass(frozen=True, slots=True)
class Snapshot:
    revision: int = -1
    routes: Mapping[str, Route] = field(default_factory=dict)
    engines: Mapping[int, tuple[EngineRow, ...]] = field(default_factory=dict)
    keys: KnownKeys = field(default_factory=dict)
    # When it must be read again, whatever the revision (seconds of the epoch): a key ends.
    until: float = float("inf")
    limits: Mapping[Subject, Limits] = field(default_factory=dict)
    # The ids of teams by name.
    teams: Mapping[str, str] = field(default_factory=dict)

    def ready_engines(self, target: Target) -> list[EngineRow]:
        """Engines that are ready and hold what `target` needs."""
        return [
            engine
            for engine in self.engines.get(target.base_id, ())
            if engine.state == "ready" and (target.kind == "base" or target.version in engine.adapters)
        ]

    def changing(self, base_id: int) -> bool:
        """Whether an engine of this base steps aside for a moment, so that waiting is better than being refused."""
        return any(engine.state in _ASIDE for engine in self.engines.get(base_id, ()))


class Directory:
    """The current snapshot, and the requests that run on what it led to."""

    def __init__(self, store: Store, worker_id: str, pid: int, artifacts: Path) -> None:
        self._store = store
        self._artifacts = artifacts
        self._worker_id = worker_id
        self._pid = pid
        self._beaten = 0.0
        self._answered = time.monotonic()
        self._outage = OutageLog(log, "the last snapshot of the store stays in use")
        self.snapshot = Snapshot()
        self._moved = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []
        self._told_waiting: dict[int, int] = {}
        # By engine and version; by base.
        self.running: Counter[tuple[str, str]] = Counter()
        self.load: Counter[str] = Counter()
        self.waiting: Counter[int] = Counter()

    @contextmanager
    def lease(self, engine_id: str, version: str) -> Iterator[None]:
        """Count a request on an engine for as long as it runs.

        Taken in the same step of the event loop as the look at the snapshot, so a beat never reports a newer
        revision without the requests that were routed by the older one.
        """
        with _counted(self.running, (engine_id, version)), _counted(self.load, engine_id):
            yield

    @contextmanager
    def waits(self, base_id: int) -> Iterator[None]:
        """Count a request that waits for an engine of a base; the supervisor wakes a sleeping one for it."""
        with _counted(self.waiting, base_id):
            yield

    async def moved(self, within_s: float) -> None:
        """Until there is another snapshot, or `within_s` passed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._moved.wait()

    def when_moved(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each new snapshot."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Poll until cancelled. A store that is away leaves the last snapshot in use."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                known = self.snapshot.revision if time.time() < self.snapshot.until else -1
                fresh = await asyncio.to_thread(self._read_if_moved, known)
                if fresh is not None:
                    self.snapshot = fresh
                    self._moved.set()
                    self._moved = asyncio.Event()
                    for listener in self._listeners:
                        listener()
                waiting = dict(self.waiting)
                news = waiting.keys() != self._told_waiting.keys()
                if fresh is not None or news or loop.time() - self._beaten > _BEAT_S:
                    await asyncio.to_thread(self._beat, self._row(waiting), news)
                    self._beaten, self._told_waiting = loop.time(), waiting
                self._answered = time.monotonic()
                self._outage.worked()
            except SumikaError as error:
                self._outage.failed(error)
            except Exception:  # a loop that ended here would honour revoked keys for ever
                log.exception("the store holds something that can't be read; the last snapshot stays in use")
            await asyncio.sleep(_POLL_S)

    def refresh(self) -> None:
        """Read at once, before the first request."""
        self.snapshot = self._read_if_moved(-1) or self.snapshot

    @property
    def store_answers(self) -> bool:
        """Whether the store was read, and written where it had to be, in the last few seconds."""
        return time.monotonic() - self._answered < _SILENT_S

    def leave(self) -> None:
        try:
            with self._store.write(quiet=True) as connection:
                engines.forget_gateways(connection, [self._worker_id])
        except SumikaError as error:  # the supervisor sees that it beats no more
            log.error("%s", error.en)

    def _row(self, waiting: dict[int, int]) -> GatewayRow:
        running: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for (engine_id, version), count in self.running.items():
            running[engine_id][version] = count
        return GatewayRow(self._worker_id, self._pid, self.snapshot.revision, dict(running), clock.now(), waiting)

    def _beat(self, row: GatewayRow, news: bool) -> None:
        """Quiet, unless somebody begins or ceases to wait: then the supervisor should look at once."""
        with self._store.write(quiet=not news) as connection:
            engines.beat(connection, row)

    def _read_if_moved(self, known: int) -> Snapshot | None:
        with self._store.read() as connection:
            now = revision(connection)
            if now == known:
                return None
            pointed = aliases.list_all(connection)
            ids = {a.version_id for a in pointed} | {a.canary_id for a in pointed if a.canary_id}
            versions = registry.by_ids(connection, ids)
            versions |= registry.by_ids(connection, {v.engine_base_id for v in versions.values()} - ids)
            held = {move.alias for move in moves.list_open(connection) if move.step in ("holding", "returning")}
            routes = {alias.name: self._route(alias, versions, alias.name in held) for alias in pointed}
            by_base: defaultdict[int, list[EngineRow]] = defaultdict(list)
            for engine in engines.list_all(connection):
                by_base[engine.base_id].append(engine)
            valid = known_keys.known(keys.list_all(connection), datetime.now(UTC))
            rows_by_base = {base: tuple(rows) for base, rows in by_base.items()}
            ends = known_keys.first_end(valid)
            return Snapshot(now, routes, rows_by_base, valid, ends, limits.list_all(connection), teams.ids(connection))

    def _route(self, alias: Alias, versions: Mapping[int, Version], holding: bool) -> Route:
        canary = self._target(versions, alias.canary_id) if alias.canary_id is not None else None
        main, moved_at = self._target(versions, alias.version_id), clock.parse(alias.moved_at)
        return Route(alias.name, main, moved_at, canary, alias.canary_share or 0, holding)

    def _target(self, versions: Mapping[int, Version], version_id: int) -> Target:
        version = versions[version_id]
        base = versions[version.engine_base_id]
        serve: Mapping[str, Any] = base.meta.get("serve", {})
        return Target(
            str(version.ref), version.kind, base.id, tasks.of(base.meta), bool(serve.get("tool_call_parser")),
            bool(serve.get("reasoning_parser")), serve.get("max_model_len"), controls.pattern(base.meta, self._artifacts / base.folder),
        )  # fmt: skip


@contextmanager
def _counted(counter: Counter[Any], key: Any) -> Iterator[None]:
    counter[key] += 1
    try:
        yield
    finally:
        counter[key] -= 1
        if not counter[key]:
            del counter[key]
