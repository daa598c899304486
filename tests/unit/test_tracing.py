"""Spans as they are made; how they come to a collector is in tests/integration/test_traces.py."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
from opentelemetry import semconv
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sumika.models.engines import EngineRow
from sumika.models.errors import SumikaError
from sumika.serving import engine_errors
from sumika.serving.metrics import Metrics
from sumika.serving.operations import OPERATIONS, Operation
from sumika.serving.tracing import engines
from sumika.serving.tracing.record import TracedRecord
from sumika.serving.usage_events import BodyCount, StreamCount, Tokens
from sumika.serving.wire import EngineLost

LOST = engine_errors.lost(EngineLost("x"))


def engine(name: str) -> EngineRow:
    return EngineRow(name, 1, f"/run/sumika/{name}.sock", "ready", None, None, (), 0, None, "")


@pytest.fixture
def made() -> InMemorySpanExporter:
    return InMemorySpanExporter()


def begun(made: InMemorySpanExporter, operation: Operation = OPERATIONS[0]) -> TracedRecord:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(made))
    record = TracedRecord("req-1", operation, provider.get_tracer("test"), Context())
    record.alias, record.version, record.team = "faq", "faq@2", "soumu"
    return record


def told(record: TracedRecord, made: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    """The spans by their `server.address`; the gateway's own is `""`."""
    record.end()
    record.tell(Metrics())
    return {str((span.attributes or {}).get("server.address", "")): span for span in made.get_finished_spans()}


def test_engine_that_was_lost_has_a_span_of_its_own_that_failed(made: InMemorySpanExporter) -> None:
    record = begun(made)
    first = record.asks(engine("a"))
    record.lose(LOST)
    second = record.asks(engine("b"))
    record.count, record.first_byte, record.status = BodyCount(), record.began + 1, 200
    spans = told(record, made)
    assert spans.keys() == {"", "a.sock", "b.sock"} and first != second
    assert [spans[name].status.is_ok for name in ("a.sock", "b.sock", "")] == [False, True, True]
    lost, server = spans["a.sock"], spans[""]
    assert lost.attributes is not None and lost.attributes["error.type"] == "engine_unreachable"
    assert not any(name.startswith("gen_ai.usage") for name in lost.attributes)
    for name, header in (("a.sock", first), ("b.sock", second)):
        at = spans[name].context
        assert spans[name].parent is not None and server.context is not None and at is not None
        assert spans[name].parent.span_id == server.context.span_id and at.trace_id == server.context.trace_id
        assert b"traceparent: 00-%032x-%016x-0" % (at.trace_id, at.span_id) in header
        assert header.startswith(b"x-request-id: req-1\r\n") and header.endswith(b"\r\n")


def test_fault_of_the_gateway_fails_its_span_by_the_status_alone(made: InMemorySpanExporter) -> None:
    server = told(begun(made), made)[""]
    assert server.attributes is not None and not server.status.is_ok and not server.events
    assert (server.attributes["error.type"], server.attributes["http.response.status_code"]) == ("500", 500)


def test_words_of_an_error_are_told_nowhere(made: InMemorySpanExporter) -> None:
    record = begun(made)
    record.asks(engine("a"))
    record.refuse(SumikaError("invalid_request", "can't read 'yamazakura'", "「山桜」を読めません", param="yamazakura"))
    for span in told(record, made).values():
        assert "yamazakura" not in span.to_json() and "山桜" not in span.to_json()
        assert span.status.description is None and not span.events


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.path)
def test_names_are_the_conventions_or_sumikas(made: InMemorySpanExporter, operation: Operation) -> None:
    known = conventions()
    record = begun(made, operation)
    record.asks(engine("a"))
    record.count = StreamCount(b"x", shows_usage=False)
    record.count.tokens = Tokens(10, 20, 5, 3)
    record.first_byte, record.status, record.code = record.began + 1, 503, "engine_unreachable"
    spans = told(record, made)
    names = {name for span in spans.values() for name in span.attributes or {}}
    assert {name for name in names if not name.startswith("sumika.")} <= known
    assert {"gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.reasoning.output_tokens", "error.type", "http.route"} <= names
    assert spans["a.sock"].name.endswith(" faq@2") and spans[""].name == f"POST {operation.path}"


def conventions() -> set[str]:
    """Every attribute that OpenTelemetry's conventions name and have not given up."""
    found = set[str]()
    for package in ("attributes", "_incubating.attributes"):
        folder = importlib.import_module(f"{semconv.__name__}.{package}")
        for module in pkgutil.iter_modules(folder.__path__):
            values = vars(importlib.import_module(f"{folder.__name__}.{module.name}"))
            found |= {value for name, value in values.items() if name.isupper() and isinstance(value, str)}
    assert "gen_ai.request.model" in found
    return found


def test_engine_without_a_collector_is_told_nothing() -> None:
    assert (engines.arguments(None), engines.environment(None)) == ([], {})
