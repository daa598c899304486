"""The gateway's application: routes, middleware and error handlers, wired from what it is given."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Scope

from sumika import __version__
from sumika.models.audit.witness import Witness
from sumika.models.errors import SumikaError
from sumika.models.principals import Principal
from sumika.models.settings import Settings
from sumika.models.store import Store
from sumika.serving import admin, auth, console, openapi, requests
from sumika.serving.access import Table, by_a_person, not_this_way, nothing_here
from sumika.serving.auth import Authenticator
from sumika.serving.browser_sessions import BrowserSessions
from sumika.serving.bulk.service import Bulk
from sumika.serving.cache_salt import CacheSalts
from sumika.serving.clerk import Clerk, ClerkProcess
from sumika.serving.console.api import Api
from sumika.serving.console.pages import Pages
from sumika.serving.console.sign_in import KeyHolders
from sumika.serving.directory import Directory, Route
from sumika.serving.drain import Drain, draining
from sumika.serving.front import Edge, Front
from sumika.serving.gate import Gate
from sumika.serving.inference import Gateway, Inference
from sumika.serving.known_keys import KeyAuthenticator
from sumika.serving.last_used import LastUsed
from sumika.serving.limiting.grammars import GrammarBudget
from sumika.serving.limiting.limiter import Limiter
from sumika.serving.metering import Metering
from sumika.serving.metrics import UNKNOWN, Metrics
from sumika.serving.monitoring import routes as exposing
from sumika.serving.oidc import login
from sumika.serving.oidc.authenticator import TokenAuthenticator
from sumika.serving.oidc.fetching import Outside
from sumika.serving.oidc.provider import Provider
from sumika.serving.oidc.ticket import Tickets
from sumika.serving.operations import OPERATIONS
from sumika.serving.ownership import Ownership
from sumika.serving.placing import Placing, resolve
from sumika.serving.proxy import Timeouts, Upstream
from sumika.serving.quarantine import Quarantine
from sumika.serving.recording import Recorder
from sumika.serving.replies import error_response
from sumika.serving.suspects import Suspects
from sumika.serving.throughput import Throughput
from sumika.serving.wrong_keys import WrongKeys

if TYPE_CHECKING:
    from sumika.serving.limiting.shared import SharedLedger
    from sumika.serving.tracing.collector import Tracing

log = logging.getLogger(__name__)

_READY_AGAIN_S = 5


def create_app(settings: Settings, store: Store, clerk: ClerkProcess | None = None, drain: Drain | None = None) -> FastAPI:
    """The gateway over `store`. Its lifespan polls the store and closes what it opened. Without a `clerk` that lives, the gateway
    does its work."""
    drain = drain or Drain()
    limits = settings.gateway
    worker_id = secrets.token_hex(8)
    directory = Directory(store, worker_id, os.getpid(), settings.layout.artifacts)
    upstream = Upstream(Timeouts(limits.first_byte_timeout_s, limits.idle_timeout_s, limits.keep_alive_s))
    metrics = Metrics()
    recorder = Recorder(store, Witness(settings.layout, settings.audit.witness), settings.audit, metrics)
    instead = Clerk(settings, store)
    metering = Metering(
        store, settings.layout.usage, worker_id, metrics, lambda: None if clerk is not None and clerk.alive else instead.drain()
    )
    shared = _shared_ledger(limits.limits_url)
    limiter = Limiter(lambda: directory.snapshot.limits, metering.spent, shared, metrics)
    quarantine = Quarantine(Suspects(settings.layout.suspects))
    tracing = _tracing(settings.telemetry.traces_url, worker_id)
    gateway = Gateway(
        limits,
        directory,
        Placing(directory, limits),
        upstream,
        metrics,
        recorder,
        metering,
        limiter,
        quarantine,
        Throughput(),
        CacheSalts(settings.layout.cache_key),
        GrammarBudget(),
        drain,
        tracing,
    )
    bulk = Bulk(settings, store, gateway, worker_id)
    used = LastUsed(store)
    outside = Outside()
    providers = [Provider(issuer, outside) for issuer in settings.oidc.issuers]

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        directory.refresh()
        if tracing is not None:
            tracing.open()
        polling = asyncio.create_task(directory.run())
        looking = asyncio.create_task(exposing.keep_looking(gateway))
        recording = asyncio.create_task(recorder.run())
        counting = asyncio.create_task(metering.run())
        noting = asyncio.create_task(used.run())
        renewing = [asyncio.create_task(shared.run())] if shared is not None else []
        try:
            async with bulk.working():
                yield
        finally:
            for task in (polling, looking, noting, *renewing):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            upstream.close()
            await outside.close()
            if shared is not None:
                await shared.close()
            recorder.close()
            metering.close()
            await recording
            await counting
            instead.sign()
            directory.leave()
            if tracing is not None:
                await tracing.close()

    pages, known = Pages(), KeyAuthenticator(lambda: directory.snapshot.keys, used)
    people = TokenAuthenticator(providers, lambda: directory.snapshot.teams)
    browsers, wrong, ownership = BrowserSessions(settings.oidc, store, settings.layout.login_key), WrongKeys(), Ownership(store)

    def answer(error: SumikaError, scope: Scope) -> Response:
        """To people as a page, to programs as OpenAI's clients expect it."""
        accept = Headers(scope=scope).get("accept", "")
        return pages.told(error, scope) if by_a_person(scope["path"], accept) else error_response(error, scope)

    def surround(inside: ASGIApp) -> ASGIApp:
        gate = Gate(
            inside,
            table=Table(),
            tokens=[known, people],
            sessions=browsers,
            origin=settings.oidc.public_url,
            owned=ownership.check,
            refused=lambda status: metrics.requests.labels(UNKNOWN, str(status)).inc(),
            answer=answer,
            wrong=wrong,
        )
        return Edge(
            gate,
            drain,
            recorder.refused.count,
            lambda scope, error: answer(_told(scope, error), scope),
            settings.gateway.trusted_proxy,
        )

    app = Front(
        surround=surround, title="Sumika", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.router.redirect_slashes = False  # the redirect would lead to whatever host the client names
    app.state.gateway = gateway
    for operation in OPERATIONS:
        app.direct(operation.path, Inference(gateway, operation))
    _add_models(app, gateway)
    _add_document(app)
    _add_operations(app, gateway, [known, people])
    app.include_router(exposing.router(gateway, store, settings.layout))
    administering = admin.router(store, settings)
    app.include_router(administering)
    app.include_router(
        console.router(pages, Api(administering, ownership), settings.oidc, KeyHolders(known, browsers, wrong)),
        include_in_schema=False,
    )
    bulk.add_to(app)
    app.include_router(login.router(settings.oidc, providers, Tickets(settings.layout.login_key), store, browsers))
    _add_errors(app, answer)
    return app


def _shared_ledger(url: str | None) -> SharedLedger | None:
    if url is None:
        return None
    from sumika.serving.limiting.shared import SharedLedger  # a third of a gateway's start, and one worker alone needs none

    return SharedLedger(url)


def _tracing(url: str | None, worker_id: str) -> Tracing | None:
    if url is None:
        return None
    from sumika.serving.tracing.collector import Tracing  # a gateway that traces nothing needn't load OpenTelemetry

    return Tracing(url, worker_id)


def _add_models(app: FastAPI, gateway: Gateway) -> None:
    def described(route: Route, who: Principal) -> dict[str, object]:
        target = route.target(who.id)
        return {
            "id": route.alias, "object": "model", "created": int(route.moved_at.timestamp()), "owned_by": "sumika",
            "max_model_len": target.context,
            "sumika": {
                "version": target.version, "kind": target.kind, "canary": target is not route.main, "task": target.task,
                "tools": target.tools, "reasoning": target.reasoning,
                "endpoints": [o.path for o in OPERATIONS if o.task in (None, target.task) and who.may_reach(o.endpoint)],
            },
        }  # fmt: skip

    @app.get("/v1/models")
    async def list_models(request: Request) -> dict[str, object]:
        who: Principal = request.state.principal
        routes = gateway.directory.snapshot.routes.values()
        return {"object": "list", "data": [described(route, who) for route in routes if who.may_use(route.alias)]}

    @app.get("/v1/models/{alias}")
    async def show_model(alias: str, request: Request) -> dict[str, object]:
        who: Principal = request.state.principal
        return described(resolve(gateway.directory.snapshot, who, alias), who)


def _add_document(app: FastAPI) -> None:
    made = cache(lambda: openapi.document(app))

    @app.get("/openapi.json", include_in_schema=False)
    async def show_document() -> JSONResponse:
        """The API, for programs; a map of it is for those who may use it, hence the key."""
        return JSONResponse(made())


def _add_operations(app: FastAPI, gateway: Gateway, tokens: Sequence[Authenticator]) -> None:
    directory = gateway.directory

    @app.get("/health/live")
    async def live() -> dict[str, str]:
        """This process makes progress; says nothing of engines or store, so that their fault restarts no gateway."""
        return {"status": "alive"}

    @app.get("/health/ready")
    async def ready(request: Request, model: str | None = None) -> dict[str, str]:
        """Whether traffic should come: some alias has an engine that is ready, or steps aside for a moment. Of one `model` only who
        may use it is told; for whoever shows no valid key it is not looked at, so that nobody finds out what aliases there are.

        It should also while the store is unavailable: requests are answered by the last snapshot. `store` says so.
        """
        if gateway.drain.begun:
            raise draining()
        snapshot = directory.snapshot
        who = None if model is None else await auth.identify(request.scope, tokens)
        routes = [r for r in snapshot.routes.values() if who is None or (r.alias == model and who.may_use(r.alias))]
        is_ready = any(snapshot.ready_engines(route.main) or snapshot.changing(route.main.base_id) for route in routes)
        if not is_ready:
            raise SumikaError(
                "not_ready",
                "No engine is ready yet.",
                "準備のできたエンジンがまだありません。",
                status=503,
                retry_after=_READY_AGAIN_S,
            )
        return {"status": "ready", "store": "available" if directory.store_answers else "unavailable"}


def _add_errors(app: FastAPI, answer: Callable[[SumikaError, Scope], Response]) -> None:
    """Whatever is raised, as `answer` words it."""

    async def told(request: Request, error: SumikaError) -> Response:
        return answer(error, request.scope)

    async def http(request: Request, error: HTTPException) -> Response:
        told = {404: nothing_here, 405: not_this_way}.get(error.status_code)
        other = SumikaError(
            "http_error", "The request can't be answered.", "リクエストに応答できません。", status=error.status_code
        )
        return answer(told() if told else other, request.scope)

    async def invalid(request: Request, error: RequestValidationError) -> Response:
        """FastAPI's place of a problem begins with where it looked: body, query, path."""
        problems = [{**problem, "loc": problem["loc"][1:]} for problem in error.errors()]
        return answer(requests.invalid(problems), request.scope)

    async def fault(request: Request, error: Exception) -> Response:
        return answer(_fault(request.scope, error), request.scope)

    app.add_exception_handler(SumikaError, told)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, invalid)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, http)  # type: ignore[arg-type]
    app.add_exception_handler(Exception, fault)


def _told(scope: Scope, error: Exception) -> SumikaError:
    return error if isinstance(error, SumikaError) else _fault(scope, error)


def _fault(scope: Scope, error: Exception) -> SumikaError:
    """What a client is told of a fault of ours; the log is told the rest."""
    request_id = scope["state"]["request_id"]
    log.error("request %s met a fault of the gateway: %s", request_id, type(error).__name__, exc_info=error)
    return SumikaError(
        "gateway_fault", f"The gateway met a fault of its own. Tell your administrator this number: {request_id}.",
        f"ゲートウェイ内部で問題が起きました。管理者に次の番号を伝えてください: {request_id}", status=500,
    )  # fmt: skip
