"""`/metrics` and `/metrics/engines`, for a Prometheus that has a key."""

from __future__ import annotations

import asyncio
from collections import Counter

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, generate_latest

from sumika.models import registry
from sumika.models.engines import STATES
from sumika.models.home import Home
from sumika.models.store import Store
from sumika.serving.inference import Gateway
from sumika.serving.monitoring import inside
from sumika.serving.monitoring.standing import Standing

_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_LOOK_S = 1.0


def router(gateway: Gateway, store: Store, home: Home) -> APIRouter:
    made = APIRouter()

    def stands() -> bytes:
        asked = CollectorRegistry()
        asked.register(Standing(store, home))
        return generate_latest(asked)

    def bases(ids: set[int]) -> dict[int, str]:
        with store.read() as connection:
            return {version_id: str(version.ref) for version_id, version in registry.by_ids(connection, ids).items()}

    @made.get("/metrics")
    async def metrics() -> Response:
        """Of this installation, in Prometheus's text format."""
        look_around(gateway)
        return Response(gateway.metrics.text() + await asyncio.to_thread(stands), media_type=_TEXT)

    @made.get("/metrics/engines")
    async def engines() -> Response:
        """vLLM's own figures of every engine that is ready, by base."""
        rows = gateway.directory.snapshot.engines
        return Response(await inside.text(rows, await asyncio.to_thread(bases, set(rows))), media_type=_TEXT)

    return made


def look_around(gateway: Gateway) -> None:
    """What is not counted as it happens."""
    directory, metrics = gateway.directory, gateway.metrics
    for state in STATES:
        rows = (row for rows in directory.snapshot.engines.values() for row in rows)
        metrics.engines.labels(state).set(sum(row.state == state for row in rows))
    metrics.queued.set(gateway.placing.queued)
    running = Counter[str]()
    for (_, version), count in directory.running.items():
        running[version] += count
    metrics.tell_running(running)


async def keep_looking(gateway: Gateway) -> None:
    """For the worker that is asked for what all of them know."""
    while True:
        look_around(gateway)
        await asyncio.sleep(_LOOK_S)
