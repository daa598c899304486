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
from sumika.serving.inference import Gateway, Inference
from sumika.serving.operations import OPERATIONS


class Bulk:
    """`add_to` an application; `working` while it serves."""

    def __init__(self, settings: Settings, store: Store, gateway: Gateway, worker_id: str) -> None:
        self._store, self._gateway, self._limits = store, gateway, settings.gateway
        self._home, self._shelf = settings.layout, Shelf(settings.layout.files)
        endpoints = {o.path: Inference(gateway, o) for o in OPERATIONS if o.path in batches.PATHS}
        most = settings.gateway.max_running_of_batches
        means = Means(store, settings.layout, self._shelf, endpoints, self._holder, asyncio.Semaphore(most), most)
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

    def _holder(self, key_id: str) -> Principal | None:
        """Who the key is by now; None once it was revoked or has expired."""
        now = time.time()
        known = self._gateway.directory.snapshot.keys.values()
        return next((key.principal for key in known if key.principal and key.principal.id == key_id and key.until > now), None)
