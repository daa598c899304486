"""What a gateway worker knows: routes, engines and keys as one immutable snapshot, reread when the store moves.

Requests read the snapshot and never the store, so the database is not on their path.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sumika.models import aliases, clock, engines, keys, registry
from sumika.models.engines import EngineRow, GatewayRow
from sumika.models.errors import SumikaError
from sumika.models.keys import Key
from sumika.models.registry import Kind
from sumika.models.store import Store, revision

log = logging.getLogger(__name__)

_POLL_S = 0.05
_BEAT_S = 1.0


@dataclass(frozen=True, slots=True)
class Route:
    """Where an alias leads now. `version` is what vLLM is told; `moved_at` is when it came to lead there."""

    alias: str
    version: str
    kind: Kind
    base_id: int
    moved_at: datetime


@dataclass(frozen=True, slots=True)
class Snapshot:
    revision: int = -1
    routes: Mapping[str, Route] = field(default_factory=dict)
    engines: Mapping[int, tuple[EngineRow, ...]] = field(default_factory=dict)
    keys: Mapping[str, Key] = field(default_factory=dict)

    def ready_engine(self, route: Route) -> EngineRow | None:
        """An engine that is ready and holds what `route` needs."""
        for engine in self.engines.get(route.base_id, ()):
            if engine.state == "ready" and (route.kind == "base" or route.version in engine.adapters):
                return engine
        return None


class Directory:
    """The current snapshot, and the requests that run on what it led to."""

    def __init__(self, store: Store, worker_id: str, pid: int) -> None:
        self._store = store
        self._worker_id = worker_id
        self._pid = pid
        self._beaten = 0.0
        self.snapshot = Snapshot()
        self.running: Counter[str] = Counter()

    @contextmanager
    def lease(self, version: str) -> Iterator[None]:
        """Count a request on `version` for as long as it runs.

        Taken in the same step of the event loop as the look at the snapshot, so a beat never reports a newer
        revision without the requests that were routed by the older one.
        """
        self.running[version] += 1
        try:
            yield
        finally:
            self.running[version] -= 1
            if not self.running[version]:
                del self.running[version]

    async def run(self) -> None:
        """Poll until cancelled. A store that is away leaves the last snapshot in use."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                fresh = await asyncio.to_thread(self._read_if_moved, self.snapshot.revision)
                if fresh is not None:
                    self.snapshot = fresh
                if fresh is not None or loop.time() - self._beaten > _BEAT_S:
                    row = GatewayRow(self._worker_id, self._pid, self.snapshot.revision, dict(self.running), clock.now())
                    await asyncio.to_thread(self._beat, row)
                    self._beaten = loop.time()
            except SumikaError as error:
                log.error("%s", error.en)
            except Exception:  # a loop that ended here would honour revoked keys for ever
                log.exception("the store holds something that can't be read; the last snapshot stays in use")
            await asyncio.sleep(_POLL_S)

    def refresh(self) -> None:
        """Read at once, before the first request."""
        self.snapshot = self._read_if_moved(-1) or self.snapshot

    def leave(self) -> None:
        with self._store.write(quiet=True) as connection:
            engines.forget_gateways(connection, [self._worker_id])

    def _beat(self, row: GatewayRow) -> None:
        with self._store.write(quiet=True) as connection:
            engines.beat(connection, row)

    def _read_if_moved(self, known: int) -> Snapshot | None:
        with self._store.read() as connection:
            now = revision(connection)
            if now == known:
                return None
            routes = {}
            for alias in aliases.list_all(connection):
                version = registry.by_id(connection, alias.version_id)
                routes[alias.name] = Route(
                    alias.name, str(version.ref), version.kind, version.engine_base_id, clock.parse(alias.moved_at)
                )
            by_base: defaultdict[int, list[EngineRow]] = defaultdict(list)
            for engine in engines.list_all(connection):
                by_base[engine.base_id].append(engine)
            moment = datetime.now(UTC)
            valid = {key.hash: key for key in keys.list_all(connection) if key.valid_at(moment)}
            return Snapshot(now, routes, {base: tuple(rows) for base, rows in by_base.items()}, valid)
