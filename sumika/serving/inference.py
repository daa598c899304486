"""The two inference endpoints, as plain ASGI: nothing between the socket and the engine that the request does not need."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from sumika.models.audit import Action
from sumika.models.errors import SumikaError
from sumika.models.keys import Key
from sumika.models.settings import GatewaySettings
from sumika.models.usage.rows import Endpoint
from sumika.serving import requests
from sumika.serving.auth import authenticate
from sumika.serving.directory import Directory
from sumika.serving.metering import Metering
from sumika.serving.metrics import UNKNOWN, Metrics
from sumika.serving.placing import Placing, resolve
from sumika.serving.proxy import ClientGone, Upstream, read_body, unless_gone
from sumika.serving.recording import Recorder
from sumika.serving.replies import error_response
from sumika.serving.request_record import CLIENT_CLOSED, VERSION_HEADER, RecordedAnswer, RequestRecord

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


class Inference:
    """`POST` of one kind of request to one path of the engine."""

    def __init__(self, gateway: Gateway, path: str, kind: type[Request]) -> None:
        self._gateway = gateway
        self._path = path
        self._kind = kind
        self._endpoint: Endpoint = "chat" if kind is requests.ChatRequest else "completions"
        self._action = Action.INFERENCE_CHAT if kind is requests.ChatRequest else Action.INFERENCE_COMPLETION

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = RequestRecord(scope["state"]["request_id"])
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
            record.end()
            record.tell(self._gateway.metrics)
            if record.key != UNKNOWN:
                self._gateway.metering.note(record.usage(self._endpoint))
                self._gateway.recorder.note(record.exchange(self._action), admitted=record.admitted)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, record: RequestRecord) -> None:
        gateway = self._gateway
        key = authenticate(scope, gateway.directory.snapshot.keys)
        record.key, record.role = key.id, key.role
        record.admitted = gateway.recorder.admit()
        body = await read_body(scope, receive, gateway.settings.max_body_bytes, gateway.settings.body_timeout_s)
        if gateway.recorder.keeps_content:
            record.content = (body, [])
        request = requests.parse(self._kind, body)
        record.prompt_estimate = len(body) // BYTES_PER_TOKEN
        route = resolve(gateway.directory.snapshot, key, request.model)
        record.alias, record.version = route.alias, route.target(key.id).version
        answer = RecordedAnswer(scope, send, record, shows_usage=request.shows_usage)
        await unless_gone(receive, self._forward(key, request, answer, record))

    async def _forward(self, key: Key, request: Request, answer: RecordedAnswer, record: RequestRecord) -> None:
        """To an engine; to another one where the first was lost before it said anything."""
        gateway, lost = self._gateway, dict[str, SumikaError]()
        while True:
            try:
                target, engine = await gateway.placing.place(key, request.model, lost)
            except SumikaError as error:
                raise next(iter(lost.values()), error) from None
            with gateway.directory.lease(engine.id, target.version):
                record.version, record.dispatched = target.version, True
                try:
                    return await gateway.upstream.forward(engine.socket, self._path, request.upstream(target.version), answer)
                except SumikaError as error:
                    if error.code != "engine_unreachable":
                        raise
                    lost[engine.id] = error
