"""The way of spans from one gateway worker to the collector: in batches, by a thread of their own, and dropped where nobody takes
them. No request waits for any of it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterable, Sequence

import requests
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import Scope

from sumika import __version__
from sumika.serving.operations import Operation
from sumika.serving.tracing.record import TracedRecord

log = logging.getLogger(__name__)

# Spans that may wait while the collector is slow or away, some 25 MB; past it the oldest go.
_MOST_WAITING = 8_192
_BATCH = 512
_SEND_EVERY_MS = 1_000
# For one batch, tries included.
_SEND_TIMEOUT_S = 5.0
# What a worker that ends gives its last spans.
_FLUSH_S = 2.0
_TRACEPARENT = "traceparent"


class Tracing:
    """Spans of one gateway worker, sent to `url` from `open` to `close`.

    Every request that passed the gate is traced, whatever its client says of sampling: so no client can force a trace on us, nor hide
    from one. A collector that wants fewer can keep those that failed or were slow, which can't be known here in advance.
    """

    def __init__(self, url: str, worker_id: str) -> None:
        self._url = url
        about = {"service.name": "sumika-gateway", "service.version": __version__, "service.instance.id": worker_id}
        self._provider = TracerProvider(ALWAYS_ON, Resource(about), shutdown_on_exit=False)
        self._tracer = self._provider.get_tracer("sumika.serving", __version__)

    def open(self) -> None:
        """Begin to send. In the worker's own lifespan: the thread would not live on in a process that is forked."""
        session = requests.Session()
        session.trust_env = False  # no proxy on the way, and no .netrc
        exporter = _SaidOnce(OTLPSpanExporter(self._url, timeout=_SEND_TIMEOUT_S, session=session), self._url)
        self._provider.add_span_processor(
            BatchSpanProcessor(exporter, _MOST_WAITING, _SEND_EVERY_MS, max_export_batch_size=_BATCH)
        )

    def record(self, operation: Operation, scope: Scope) -> TracedRecord:
        """Of a request that comes in now."""
        return TracedRecord(scope["state"]["request_id"], operation, self._tracer, _joined(scope["headers"]))

    async def close(self) -> None:
        """Send what waits, as far as that goes quickly."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, _FLUSH_S)


def _joined(headers: Iterable[tuple[bytes, bytes]]) -> Context:
    """The client's trace, where it names one. Its `tracestate` is left behind: it may hold any text, and nobody here reads it."""
    told = [value for name, value in headers if name == b"traceparent"]
    return (
        TraceContextTextMapPropagator().extract({_TRACEPARENT: told[0].decode("latin-1")}, Context())
        if len(told) == 1
        else Context()
    )


class _SaidOnce(SpanExporter):
    """Tells once that the collector takes nothing, and once that it does again; OpenTelemetry's own log would tell it of each batch."""

    def __init__(self, exporter: SpanExporter, url: str) -> None:
        self._exporter = exporter
        self._url = url
        self._lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        if result is SpanExportResult.FAILURE:
            if not self._lost:
                log.warning(
                    "the collector at %s takes no traces; requests go on, and their spans are lost until it does", self._url
                )
            self._lost += len(spans)
        elif self._lost:
            log.info("the collector at %s takes traces again; at least %d spans were lost", self._url, self._lost)
            self._lost = 0
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()
