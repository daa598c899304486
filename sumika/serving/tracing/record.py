"""One request as spans: the gateway's, and within it one for each engine that was asked, whose own spans join there.

Names and attributes are OpenTelemetry's conventions for HTTP and for generative AI, and `sumika.*`. Each value comes from the registry,
from the settings or from a count; nothing of what a client writes, and no text of an error, is among them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context

from sumika.models.engines import EngineRow
from sumika.models.errors import SumikaError
from sumika.serving.metrics import UNKNOWN, Metrics
from sumika.serving.operations import Operation
from sumika.serving.request_record import RequestRecord
from sumika.serving.usage_events import StreamCount

# Where OpenTelemetry's name for what a model is asked to do is not our own.
_OPERATIONS = {"completions": "text_completion", "responses": "chat", "messages": "chat"}
_Attributes = Mapping[str, str | int | float | bool | None]


class TracedRecord(RequestRecord):
    """Begins its span when it is made and ends it when it is told; `parent`: the client's, or an empty one."""

    __slots__ = ("_asked_at", "_asking", "_operation", "_span", "_tracer")

    def __init__(self, request_id: str, operation: Operation, tracer: Tracer, parent: Context) -> None:
        super().__init__(request_id)
        self._operation, self._tracer = operation, tracer
        self._asking: Span | None = None
        self._asked_at = 0.0
        self._span = tracer.start_span(
            f"POST {operation.path}",
            parent,
            SpanKind.SERVER,
            {
                "http.request.method": "POST", "http.route": operation.path, "url.path": operation.path, "url.scheme": "http",
                "sumika.request_id": request_id,
            },
        )  # fmt: skip

    def asks(self, engine: EngineRow) -> bytes:
        name = _OPERATIONS.get(self._operation.endpoint, self._operation.endpoint)
        self._asked_at = time.monotonic()
        self._asking = self._tracer.start_span(
            f"{name} {self.version}",
            set_span_in_context(self._span, Context()),
            SpanKind.CLIENT,
            {
                "gen_ai.operation.name": name, "gen_ai.provider.name": "vllm", "gen_ai.request.model": self.version,
                "server.address": engine.socket.rpartition("/")[2], "network.transport": "unix",
            },
        )  # fmt: skip
        made = self._asking.get_span_context()
        return super().asks(engine) + b"traceparent: 00-%032x-%016x-%02x\r\n" % (made.trace_id, made.span_id, made.trace_flags)

    def lose(self, error: SumikaError) -> None:
        self._end_asking({}, error.code)

    def tell(self, metrics: Metrics) -> None:
        super().tell(metrics)
        error = self.code if self.code != UNKNOWN else str(self.status) if self.status >= 500 else None
        self._end_asking(self._generated(), error)
        known = {"sumika.alias": self.alias, "sumika.version": self.version, "sumika.team": self.team or UNKNOWN}
        told = {name: value for name, value in known.items() if value != UNKNOWN}
        _end(self._span, {**told, "http.response.status_code": self.status, "error.type": error}, failed=self.status >= 500)

    def _end_asking(self, told: _Attributes, error: str | None) -> None:
        if self._asking is not None:
            _end(self._asking, {**told, "error.type": error}, failed=error is not None)
            self._asking = None

    def _generated(self) -> _Attributes:
        """What the engine made of the request, as far as it is known."""
        tokens = self.tokens()
        streamed = self.first_byte is not None and isinstance(self.count, StreamCount)
        return {
            "gen_ai.response.model": self.version if self.first_byte is not None else None,
            "gen_ai.response.time_to_first_chunk": (self.first_byte or 0.0) - self._asked_at if streamed else None,
            "gen_ai.usage.input_tokens": tokens.prompt,
            "gen_ai.usage.output_tokens": tokens.completion,
            "gen_ai.usage.cache_read.input_tokens": tokens.cached,
            "gen_ai.usage.reasoning.output_tokens": tokens.reasoning,
            "sumika.usage.partial": self.partial or None,
        }


def _end(span: Span, told: _Attributes, *, failed: bool) -> None:
    span.set_attributes({name: value for name, value in told.items() if value is not None})
    if failed:
        span.set_status(StatusCode.ERROR)  # no words: an engine's may repeat the request
    span.end()
