"""Everything bulk of one gateway worker, wired: its routes, and the worker that runs batches when its turn comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI
from starlette.routing import Route

from sumika.models.principals import Principal
from sumika.models.settings import Settings
from sumika.models.shelf import Shelf
from sumika.models.store import Store
from sumika.serving.bulk import batches, files, fine_tuning, upload
from sumika.serving.bulk.run import Means
from sumika.serving.bulk.worker import BulkWorker
from sumika.serving.directory import Directory
from sumika.serving.inference import Gateway, Inference
from sumika.serving.known_keys import KnownKey, KnownKeys
from sumika.serving.operations import OPERATIONS


class Bulk:
    """`add_to` an application; `working` while it serves."""

    def __init__(self, settings: Settings, store: Store, gateway: Gateway, worker_id: str) -> None:
        self._store, self._gateway, self._limits = store, gateway, settings.gateway
        self._home, self._shelf = settings.layout, Shelf(settings.layout.files)
        endpoints = {o.path: Inference(gateway, o) for o in OPERATIONS if o.path in batches.PATHS}
        most = settings.gateway.max_running_of_batches
        longest = settings.gateway.max_body_bytes + upload.LINE_BYTES
        means = Means(
            store, settings.layout, self._shelf, endpoints, Holders(gateway.directory), asyncio.Semaphore(most), most, longest
        )
        self._worker = BulkWorker(means, worker_id)

    def add_to(self, app: FastAPI) -> None:
        app.router.routes.append(Route(upload.PATH, upload.Upload(self._store, self._shelf, self._limits), methods=["POST"]))
        app.include_router(files.router(self._store, self._shelf, self._limits.idle_timeout_s))
        app.include_router(batches.router(self._store))
        app.include_router(fine_tuning.router(self._store, self._home))

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        running = asyncio.create_task(self._worker.run())
        try:
            yield
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            await self._worker.close()


class Holders:
    """Who a key is by now, by its id; None once it was revoked or has expired."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._keys: KnownKeys = {}
        self._by_id: dict[str, KnownKey] = {}

    def __call__(self, key_id: str) -> Principal | None:
        if self._directory.snapshot.keys is not self._keys:
            self._keys = self._directory.snapshot.keys
            known = sorted(self._keys.values(), key=lambda key: key.until)  # of two secrets of one key the later counts
            self._by_id = {key.principal.id: key for key in known if key.principal is not None}
        found = self._by_id.get(key_id)
        return found.principal if found is not None and found.until > time.time() else None
