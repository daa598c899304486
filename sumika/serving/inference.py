"""The two inference endpoints, as plain ASGI: nothing between the socket and the engine that the request does not need."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from sumika.models.errors import SumikaError, not_found
from sumika.models.keys import Key
from sumika.models.settings import GatewaySettings
from sumika.serving import requests
from sumika.serving.auth import authenticate
from sumika.serving.directory import Directory, Route, Snapshot
from sumika.serving.metrics import UNKNOWN, Metrics
from sumika.serving.proxy import Answer, ClientGone, Upstream, read_body, unless_gone
from sumika.serving.replies import error_response

log = logging.getLogger(__name__)

# What the log says of a request whose client left (nginx's number for it).
CLIENT_CLOSED = 499
# Which version answered, or would have.
VERSION_HEADER = "x-sumika-version"


@dataclass(frozen=True, slots=True)
class Gateway:
    """What the endpoints share."""

    settings: GatewaySettings
    directory: Directory
    upstream: Upstream
    metrics: Metrics


class Inference:
    """`POST` of one kind of request to one path of the engine."""

    def __init__(self, gateway: Gateway, path: str, kind: type[requests.ChatRequest] | type[requests.CompletionRequest]) -> None:
        self._gateway = gateway
        self._path = path
        self._kind = kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = _Record(time.monotonic(), scope["state"]["request_id"])
        try:
            await self._answer(scope, receive, send, record)
            record.status = record.status or 200
        except ClientGone:
            record.status = CLIENT_CLOSED
        except SumikaError as error:
            record.status = error.status
            record.code = error.code
            response = error_response(error, scope)
            if record.version != UNKNOWN:
                response.headers[VERSION_HEADER] = record.version
            await response(scope, receive, send)
        finally:
            record.tell(self._gateway.metrics)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, record: _Record) -> None:
        gateway = self._gateway
        key = authenticate(scope, gateway.directory.snapshot.keys)
        body = await read_body(scope, receive, gateway.settings.max_body_bytes, gateway.settings.body_timeout_s)
        request = requests.parse(self._kind, body)
        # From here to the lease nothing waits, so the route and the count of its requests are one step.
        snapshot = gateway.directory.snapshot
        route = resolve(snapshot, key, request.model)
        record.alias, record.version, record.key = route.alias, route.version, key.id
        engine = snapshot.ready_engine(route)
        if engine is None:
            raise not_ready(route)
        with gateway.directory.lease(route.version):
            answer = _Timed(scope, send, [(VERSION_HEADER.encode(), route.version.encode())], record)
            work = gateway.upstream.forward(engine.socket, self._path, request.upstream(route.version), answer)
            await unless_gone(receive, work)


def resolve(snapshot: Snapshot, key: Key, alias: str) -> Route:
    """Raises SumikaError `model_not_found` (404), the same for an alias that is not there and one the key may not use."""
    route = snapshot.routes.get(alias)
    if route is None or not key.may_use(alias):
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
        retry_after=10,
    )


@dataclass(slots=True)
class _Record:
    """What is told of one request when it has ended; nothing of what it said."""

    began: float
    request_id: str
    alias: str = UNKNOWN
    version: str = UNKNOWN
    key: str = UNKNOWN
    code: str = UNKNOWN
    status: int = 0
    first_byte: float | None = None

    def tell(self, metrics: Metrics) -> None:
        self.status = self.status or 500  # ended by a fault of ours
        seconds = time.monotonic() - self.began
        metrics.requests.labels(self.alias, str(self.status)).inc()
        metrics.duration.labels(self.alias).observe(seconds)
        if self.first_byte is not None:
            metrics.first_byte.labels(self.alias).observe(self.first_byte - self.began)
        log.info(
            "request %s key=%s alias=%s version=%s status=%d code=%s seconds=%.3f",
            self.request_id, self.key, self.alias, self.version, self.status, self.code, seconds,
        )  # fmt: skip


class _Timed(Answer):
    def __init__(self, scope: Scope, send: Send, headers: list[tuple[bytes, bytes]], record: _Record) -> None:
        super().__init__(scope, send, headers)
        self._record = record

    async def break_off(self, error: SumikaError) -> None:
        self._record.status, self._record.code = error.status, error.code
        await super().break_off(error)

    async def send(self, chunk: bytes) -> None:
        if self._record.first_byte is None:
            self._record.first_byte = time.monotonic()
        await super().send(chunk)
