"""The inference endpoints, as plain ASGI: nothing between the socket and the engine that the request does not need."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from starlette.types import Receive, Scope, Send

from sumika.models.audit import inference
from sumika.models.engines import EngineRow
from sumika.models.errors import SumikaError
from sumika.models.principals import Principal, Sensitivity
from sumika.models.settings import GatewaySettings
from sumika.serving import requests, turns
from sumika.serving.cache_salt import CacheSalts
from sumika.serving.directory import Directory, Target
from sumika.serving.drain import Drain
from sumika.serving.engine_errors import BROKEN
from sumika.serving.fair_queue import Turn
from sumika.serving.fitting import check_fits
from sumika.serving.limiting.grammars import GrammarBudget
from sumika.serving.limiting.limiter import Limiter
from sumika.serving.metering import Metering
from sumika.serving.metrics import Metrics
from sumika.serving.operations import Operation
from sumika.serving.placing import Placing, resolve
from sumika.serving.proxy import ClientGone, Upstream, read_body, unless_gone
from sumika.serving.quarantine import Quarantine
from sumika.serving.recording import Exchange, Recorder
from sumika.serving.replies import error_response
from sumika.serving.request_record import CLIENT_CLOSED, RecordedAnswer, RequestRecord, Work
from sumika.serving.requests.fields import Asked
from sumika.serving.sensitivity import check_sensitivity
from sumika.serving.throughput import Throughput

if TYPE_CHECKING:
    from sumika.serving.tracing.collector import Tracing


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
    quarantine: Quarantine
    throughput: Throughput
    salts: CacheSalts
    grammars: GrammarBudget
    drain: Drain
    tracing: Tracing | None = None


class Inference:
    """One operation."""

    def __init__(self, gateway: Gateway, operation: Operation) -> None:
        self._gateway = gateway
        self._operation = operation
        self._record = RequestRecord.of if gateway.tracing is None else partial(gateway.tracing.record, operation)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = self._record(scope)
        try:
            with self._gateway.drain.told():
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
        usage = record.usage(self._operation.endpoint)
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
        sensitivity = check_sensitivity(principal, scope["headers"])
        record.admitted = gateway.recorder.admit()
        body = await read_body(scope, receive, gateway.settings.max_body_bytes, gateway.settings.body_timeout_s)
        if gateway.recorder.keeps_content:
            record.content = (body, [])
        request = requests.parse(self._operation.kind, body)
        snapshot = gateway.directory.snapshot
        route = resolve(snapshot, principal, request.model)
        target = route.target(principal.id)
        record.alias, record.version = route.alias, target.version
        check_fits(route.alias, target, self._operation, request)
        gateway.grammars.take(principal.owner, request.grammar)
        estimate = request.estimate(len(body))
        record.prompt_estimate = estimate - request.most_completion
        turn = turns.turn(snapshot.limits, principal, turns.asked(scope["headers"]), estimate)
        record.held = await gateway.limiter.reserve(record.subjects, estimate)
        answer = RecordedAnswer(
            scope, send, record, self._operation.dialect, is_stream=request.streams, shows_usage=request.shows_usage
        )
        answer.holds = self._operation.holds
        try:
            with gateway.drain.told():
                await unless_gone(receive, self._forward(principal, sensitivity, request, turn, answer, record))
        except SumikaError as error:
            if not answer.started:
                raise
            await answer.break_off(error)

    def _work(self, request: Asked, target: Target, engine: EngineRow) -> Work:
        reserved, whole = request.most_completion, target.context and target.context * request.choices
        most = reserved if request.bounds_completion else whole
        now = time.monotonic()
        return Work(engine.base_id, request.choices, reserved, most, request.streams, now, self._gateway.throughput)

    async def _forward(
        self,
        principal: Principal,
        sensitivity: Sensitivity,
        request: Asked,
        turn: Turn,
        answer: RecordedAnswer,
        record: RequestRecord,
    ) -> None:
        """To an engine; to another one where the first was lost before it said anything."""
        gateway, lost = self._gateway, dict[str, SumikaError]()
        salt = gateway.salts.of(principal, sensitivity)
        plain, owner = partial(request.upstream, ""), principal.owner  # the same to whatever version it goes
        while True:
            async with gateway.quarantine.turn(plain, owner):
                try:
                    target, engine = await gateway.placing.place(principal, request.model, turn, lost)
                except SumikaError as error:
                    raise next(iter(lost.values()), error) from None
                with gateway.placing.lease(engine, target.version):
                    record.version = target.version
                    record.work = self._work(request, target, engine)
                    gateway.metering.begin(record.request_id, partial(record.interrupted, self._operation.endpoint))
                    # It costs the engine 3 to 6 µs an event, and where it counts what was thought it counts all of it at each event.
                    answer.running_usage = request.streams and record.counts_tokens and not target.reasoning
                    try:
                        body = request.upstream(target.version, salt, target.controls, running_usage=answer.running_usage)
                        path = self._operation.engine_path
                        await gateway.upstream.forward(engine.socket, path, record.asks(engine), body, answer)
                    except SumikaError as error:
                        if error.status >= 500 and answer.asked:
                            await gateway.quarantine.failed(plain(), engine, owner, lost=error.code == "engine_unreachable")
                        if error.code != "engine_unreachable":
                            raise
                        record.lose(error)
                        lost[engine.id] = error
                        continue
                if record.code in BROKEN:
                    await gateway.quarantine.failed(plain(), engine, owner)
                else:
                    gateway.quarantine.answered(plain)
                return
