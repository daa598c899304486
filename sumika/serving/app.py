"""The gateway's application: routes, middleware and error handlers, wired from what it is given."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Route as StarletteRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sumika import __version__
from sumika.models.audit.witness import Witness
from sumika.models.engines import STATES
from sumika.models.errors import SumikaError
from sumika.models.keys import Key
from sumika.models.settings import Settings
from sumika.models.store import Store
from sumika.serving import requests
from sumika.serving.auth import authenticate, require_admin
from sumika.serving.directory import Directory, Route
from sumika.serving.inference import Gateway, Inference
from sumika.serving.metering import Metering
from sumika.serving.metrics import Metrics
from sumika.serving.placing import Placing, resolve
from sumika.serving.proxy import Timeouts, Upstream
from sumika.serving.recording import Recorder
from sumika.serving.replies import error_response

log = logging.getLogger(__name__)

_REQUEST_ID = b"x-request-id"


def create_app(settings: Settings, store: Store) -> FastAPI:
    """The gateway over `store`. Its lifespan polls the store and closes what it opened."""
    limits = settings.gateway
    worker_id = secrets.token_hex(8)
    directory = Directory(store, worker_id, os.getpid())
    upstream = Upstream(Timeouts(limits.first_byte_timeout_s, limits.idle_timeout_s))
    metrics = Metrics()
    recorder = Recorder(store, Witness(settings.layout), settings.audit, metrics)
    metering = Metering(store, settings.layout.usage, worker_id, metrics)
    gateway = Gateway(limits, directory, Placing(directory, limits), upstream, metrics, recorder, metering)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        directory.refresh()
        polling = asyncio.create_task(directory.run())
        recording = asyncio.create_task(recorder.run())
        counting = asyncio.create_task(metering.run())
        try:
            yield
        finally:
            polling.cancel()
            with suppress(asyncio.CancelledError):
                await polling
            await upstream.close()
            recorder.close()
            metering.close()
            await recording
            await counting
            directory.leave()

    app = FastAPI(title="Sumika", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.router.redirect_slashes = False  # the redirect would lead to whatever host the client names
    app.state.gateway = gateway
    for path, kind in (("/v1/chat/completions", requests.ChatRequest), ("/v1/completions", requests.CompletionRequest)):
        app.router.routes.append(StarletteRoute(path, Inference(gateway, path, kind), methods=["POST"]))
    _add_models(app, gateway)
    _add_operations(app, gateway)
    app.add_middleware(RequestIds, refused=recorder.refused.count)
    app.add_exception_handler(SumikaError, _told)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _http)  # type: ignore[arg-type]
    app.add_exception_handler(Exception, _fault)
    return app


def _add_models(app: FastAPI, gateway: Gateway) -> None:
    def described(route: Route, key: Key) -> dict[str, object]:
        target = route.target(key.id)
        return {
            "id": route.alias, "object": "model", "created": int(route.moved_at.timestamp()), "owned_by": "sumika",
            "sumika": {"version": target.version, "kind": target.kind, "canary": target is not route.main},
        }  # fmt: skip

    @app.get("/v1/models")
    async def list_models(request: Request) -> dict[str, object]:
        snapshot = gateway.directory.snapshot
        key = authenticate(request.scope, snapshot.keys)
        return {"object": "list", "data": [described(r, key) for r in snapshot.routes.values() if key.may_use(r.alias)]}

    @app.get("/v1/models/{alias}")
    async def show_model(alias: str, request: Request) -> dict[str, object]:
        snapshot = gateway.directory.snapshot
        key = authenticate(request.scope, snapshot.keys)
        return described(resolve(snapshot, key, alias), key)


def _add_operations(app: FastAPI, gateway: Gateway) -> None:
    directory = gateway.directory

    @app.get("/health/live")
    async def live() -> dict[str, str]:
        """This process makes progress; says nothing of engines or store, so that their fault restarts no gateway."""
        return {"status": "alive"}

    @app.get("/health/ready")
    async def ready(model: str | None = None) -> JSONResponse:
        """Whether traffic should come: some alias (or `model`) has an engine that is ready, or steps aside for a moment."""
        snapshot = directory.snapshot
        routes = [r for r in snapshot.routes.values() if model is None or r.alias == model]
        is_ready = any(snapshot.ready_engines(route.main) or snapshot.changing(route.main.base_id) for route in routes)
        return JSONResponse({"status": "ready" if is_ready else "not ready"}, status_code=200 if is_ready else 503)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        require_admin(authenticate(request.scope, directory.snapshot.keys))
        for state in STATES:
            rows = (row for rows in directory.snapshot.engines.values() for row in rows)
            gateway.metrics.engines.labels(state).set(sum(row.state == state for row in rows))
        gateway.metrics.running.clear()
        for (_, version), count in directory.running.items():
            gateway.metrics.running.labels(version).inc(count)
        return Response(gateway.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


class RequestIds:
    """Gives every request an id of ours, answered as `X-Request-Id`; a client's own is not believed.

    `refused` is told of each answer 401 or 403, whoever gave it.
    """

    def __init__(self, app: ASGIApp, refused: Callable[[Scope, int], None]) -> None:
        self._app = app
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req-{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id

        async def with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] in (401, 403):
                    self._refused(scope, message["status"])
                message["headers"] = [*message.get("headers", []), (_REQUEST_ID, request_id.encode())]
            await send(message)

        await self._app(scope, receive, with_id)


async def _told(request: Request, error: SumikaError) -> Response:
    return error_response(error, request.scope)


async def _http(request: Request, error: HTTPException) -> Response:
    en, ja = {
        404: ("There is nothing at this path; the API lies under /v1.", "このパスには何もありません。APIは /v1 の下にあります。"),
        405: ("This path does not take this method.", "このパスではこのメソッドを使えません。"),
    }.get(error.status_code, ("The request can't be answered.", "リクエストに応答できません。"))
    code = {404: "path_not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    return error_response(SumikaError(code, en, ja, status=error.status_code), request.scope)


async def _fault(request: Request, error: Exception) -> Response:
    request_id = request.scope["state"]["request_id"]
    log.error("request %s met a fault of the gateway: %s", request_id, type(error).__name__, exc_info=error)
    return error_response(
        SumikaError(
            "gateway_fault", f"The gateway met a fault of its own. Tell your administrator this number: {request_id}.",
            f"ゲートウェイ内部で問題が起きました。管理者に次の番号を伝えてください: {request_id}", status=500,
        ),
        request.scope,
    )  # fmt: skip
