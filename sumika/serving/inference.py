"""The two inference endpoints, as plain ASGI: nothing between the socket and the engine that the request does not need."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from sumika.models import clock
from sumika.models.actor import Actor
from sumika.models.audit import Action
from sumika.models.audit.chain import Entry, Outcome
from sumika.models.errors import SumikaError
from sumika.models.principals import Principal
from sumika.models.settings import GatewaySettings
from sumika.serving import requests
from sumika.serving.directory import Directory
from sumika.serving.metrics import UNKNOWN, Metrics
from sumika.serving.placing import Placing, resolve
from sumika.serving.proxy import Answer, ClientGone, Upstream, read_body, unless_gone
from sumika.serving.recording import Exchange, Recorder
from sumika.serving.replies import error_response
from sumika.serving.sensitivity import check_sensitivity

log = logging.getLogger(__name__)

Request = requests.ChatRequest | requests.CompletionRequest

# What the log says of a request whose client left (nginx's number for it).
CLIENT_CLOSED = 499
# Which version answered, or would have.
VERSION_HEADER = "x-sumika-version"


@dataclass(frozen=True, slots=True)
class Gateway:
    """What the endpoints share."""

    settings: GatewaySettings
    directory: Directory
    placing: Placing
    upstream: Upstream
    metrics: Metrics
    recorder: Recorder


class Inference:
    """`POST` of one kind of request to one path of the engine."""

    def __init__(self, gateway: Gateway, path: str, kind: type[Request]) -> None:
        self._gateway = gateway
        self._path = path
        self._kind = kind
        self._action = Action.INFERENCE_CHAT if kind is requests.ChatRequest else Action.INFERENCE_COMPLETION

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
            if record.key != UNKNOWN:
                self._gateway.recorder.note(record.exchange(self._action), admitted=record.admitted)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, record: _Record) -> None:
        gateway = self._gateway
        principal: Principal = scope["state"]["principal"]
        record.key, record.role = principal.id, principal.role
        check_sensitivity(principal, scope["headers"])
        record.admitted = gateway.recorder.admit()
        body = await read_body(scope, receive, gateway.settings.max_body_bytes, gateway.settings.body_timeout_s)
        if gateway.recorder.keeps_content:
            record.content = (body, [])
        request = requests.parse(self._kind, body)
        route = resolve(gateway.directory.snapshot, principal, request.model)
        record.alias, record.version = route.alias, route.target(principal.id).version
        await unless_gone(receive, self._forward(principal, request, _Timed(scope, send, record), record))

    async def _forward(self, principal: Principal, request: Request, answer: _Timed, record: _Record) -> None:
        """To an engine; to another one where the first was lost before it said anything."""
        gateway, lost = self._gateway, dict[str, SumikaError]()
        while True:
            try:
                target, engine = await gateway.placing.place(principal, request.model, lost)
            except SumikaError as error:
                raise next(iter(lost.values()), error) from None
            with gateway.directory.lease(engine.id, target.version):
                record.version = target.version
                try:
                    return await gateway.upstream.forward(engine.socket, self._path, request.upstream(target.version), answer)
                except SumikaError as error:
                    if error.code != "engine_unreachable":
                        raise
                    lost[engine.id] = error


@dataclass(slots=True)
class _Record:
    """What is told of one request when it has ended. Nothing of what it said, but `content`, which goes nowhere unsealed."""

    began: float
    request_id: str
    alias: str = UNKNOWN
    version: str = UNKNOWN
    key: str = UNKNOWN
    role: str = ""
    code: str = UNKNOWN
    status: int = 0
    first_byte: float | None = None
    admitted: bool = False
    content: tuple[bytes, list[bytes]] | None = None

    def exchange(self, action: Action) -> Exchange:
        """For the audit log."""
        outcome: Outcome = "done" if self.status < 400 else "refused" if self.status < 500 else "failed"
        details = {
            "request": self.request_id, "version": self.version, "status": self.status,
            "ms": round((time.monotonic() - self.began) * 1000),
        }  # fmt: skip
        reason = self.code if self.code != UNKNOWN else ""
        entry = Entry(action, self.alias, outcome, reason, details, Actor(self.key, self.role), clock.now())
        return Exchange(self.request_id, entry, self.content)

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
    """Tells the version that answers, and notes when it began."""

    def __init__(self, scope: Scope, send: Send, record: _Record) -> None:
        super().__init__(scope, send)
        self._record = record

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(VERSION_HEADER.encode(), self._record.version.encode())]

    async def break_off(self, error: SumikaError) -> None:
        self._record.status, self._record.code = error.status, error.code
        await super().break_off(error)

    async def send(self, chunk: bytes) -> None:
        if self._record.first_byte is None:
            self._record.first_byte = time.monotonic()
        if self._record.content is not None:
            self._record.content[1].append(chunk)
        await super().send(chunk)
