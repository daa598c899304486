"""The two inference endpoints, as plain ASGI: nothing between the socket and the engine that the request does not need."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from sumika.models.audit import inference
from sumika.models.errors import SumikaError
from sumika.models.principals import Principal
from sumika.models.settings import GatewaySettings
from sumika.models.usage.rows import Endpoint
from sumika.serving import requests, turns
from sumika.serving.directory import Directory
from sumika.serving.fair_queue import Turn
from sumika.serving.limiting.limiter import Limiter
from sumika.serving.metering import Metering
from sumika.serving.metrics import Metrics
from sumika.serving.placing import Placing, resolve
from sumika.serving.proxy import ClientGone, Upstream, read_body, unless_gone
from sumika.serving.recording import Exchange, Recorder
from sumika.serving.replies import error_response
from sumika.serving.request_record import CLIENT_CLOSED, RecordedAnswer, RequestRecord
from sumika.serving.sensitivity import check_sensitivity

Request = requests.ChatRequest | requests.CompletionRequest
# A Japanese character is three bytes of UTF-8 and about one token; four letters of English are one too.
BYTES_PER_TOKEN = 3


@dataclass(frozen=True, slots=True)
class Gateway:
    """What the endpoints share."""

    settings: GatewaySettings
    directory: Directory
    placing: Placing
    upstream: Upstream
    metrics: Metrics
    recorder: Recorder
    metering: Metering
    limiter: Limiter


class Inference:
    """`POST` of one kind of request to one path of the engine."""

    def __init__(self, gateway: Gateway, path: str, kind: type[Request]) -> None:
        self._gateway = gateway
        self._path = path
        self._kind = kind
        self._endpoint: Endpoint = "chat" if kind is requests.ChatRequest else "completions"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = RequestRecord(scope["state"]["request_id"])
        try:
            await self._answer(scope, receive, send, record)
            record.status = record.status or 200
        except ClientGone:
            record.status = CLIENT_CLOSED
        except SumikaError as error:
            record.refuse(error)
            response = error_response(error, scope)
            response.headers.update(record.headers())
            await response(scope, receive, send)
        finally:
            await self._tell(record)

    async def _tell(self, record: RequestRecord) -> None:
        gateway = self._gateway
        record.end()
        record.tell(gateway.metrics)
        usage = record.usage(self._endpoint)
        if not gateway.metering.note(usage):
            gateway.recorder.lose()
        if gateway.recorder.keeps_content:
            gateway.recorder.note(Exchange(inference.entry(usage), record.content), admitted=record.admitted)
        if record.held is not None:
            await gateway.limiter.settle(record.held, usage.tokens)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, record: RequestRecord) -> None:
        gateway = self._gateway
        principal: Principal = scope["state"]["principal"]
        record.key, record.role, record.team = principal.id, principal.role, principal.team
        check_sensitivity(principal, scope["headers"])
        record.admitted = gateway.recorder.admit()
        body = await read_body(scope, receive, gateway.settings.max_body_bytes, gateway.settings.body_timeout_s)
        if gateway.recorder.keeps_content:
            record.content = (body, [])
        request = requests.parse(self._kind, body)
        snapshot = gateway.directory.snapshot
        route = resolve(snapshot, principal, request.model)
        record.alias, record.version = route.alias, route.target(principal.id).version
        record.prompt_estimate = len(body) // BYTES_PER_TOKEN
        estimate = record.prompt_estimate + request.most_completion
        turn = turns.turn(snapshot.limits, principal, turns.asked(scope["headers"]), estimate)
        record.held = await gateway.limiter.reserve(record.subjects, estimate)
        answer = RecordedAnswer(scope, send, record, shows_usage=request.shows_usage)
        await unless_gone(receive, self._forward(principal, request, turn, answer, record))

    async def _forward(
        self, principal: Principal, request: Request, turn: Turn, answer: RecordedAnswer, record: RequestRecord
    ) -> None:
        """To an engine; to another one where the first was lost before it said anything."""
        gateway, lost = self._gateway, dict[str, SumikaError]()
        while True:
            try:
                target, engine = await gateway.placing.place(principal, request.model, turn, lost)
            except SumikaError as error:
                raise next(iter(lost.values()), error) from None
            with gateway.placing.lease(engine, target.version):
                record.version, record.dispatched = target.version, True
                try:
                    return await gateway.upstream.forward(engine.socket, self._path, request.upstream(target.version), answer)
                except SumikaError as error:
                    if error.code != "engine_unreachable":
                        raise
                    lost[engine.id] = error
