"""A real engine's spans join the gateway's trace, and tell times and counts alone."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys

import httpx
import pytest

from sumika.serving.tracing import engines
from tests.e2e.conftest import BASE, QUESTIONS, Real
from tests.integration.conftest import until
from tests.otlp_receiver import Seen, receiving

ENGINE = "sumika-engine"
# vLLM's tracer as an engine begins it, and what it does with a request's headers: one that the gateway traced, one that it did
# not, and one of the supervisor's, without any.
VLLMS_OWN = """
import sys, time
from vllm.tracing import SpanKind, extract_trace_context, init_tracer, instrument, instrument_manual

init_tracer("vllm.llm_engine", sys.argv[1])
instrument(lambda: None, span_name="loading")()
for traceparent in sys.argv[2:]:
    headers = {"traceparent": traceparent} if traceparent else None
    instrument_manual("llm_request", time.time_ns(), context=extract_trace_context(headers), kind=SpanKind.SERVER)
"""


def test_vllms_tracer_as_we_set_it_joins_requests_and_begins_no_trace_itself() -> None:
    trace, parent = secrets.token_hex(16), secrets.token_hex(8)
    asked = [f"00-{trace}-{parent}-01", f"00-{'1' * 32}-{'1' * 16}-00", ""]
    with receiving() as collector:
        url = engines.arguments(f"{collector.url}/v1/traces")[-1]
        env = {"PATH": os.environ["PATH"], "DO_NOT_TRACK": "1", **engines.environment(url)}
        subprocess.run([sys.executable, "-c", VLLMS_OWN, url, *asked], env=env, check=True, timeout=300)
        (span,) = collector.spans
    assert (span.name, span.trace, span.parent, span.resource["service.name"]) == ("llm_request", trace, parent, ENGINE)


def spans(real: Real, trace: str) -> tuple[Seen, Seen, Seen]:
    """The gateway's, the one of its call, the engine's."""

    def look() -> list[Seen] | None:
        found = [span for span in list(real.collector.spans) if span.trace == trace]
        return found if len(found) >= 3 else None

    found = until(look, what="three spans")
    (server,) = (s for s in found if s.resource["service.name"] == "sumika-gateway" and s.kind == 2)
    (call,) = (s for s in found if s.kind == 3)
    (engine,) = (s for s in found if s.resource["service.name"] == ENGINE)
    return server, call, engine


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("alias", [BASE, "canteen"])
def test_engines_span_joins_the_trace_and_tells_nothing_that_was_said(real: Real, alias: str, stream: bool) -> None:
    question, answer = next(iter(QUESTIONS.items()))
    trace, parent = secrets.token_hex(16), secrets.token_hex(8)
    headers = {"authorization": f"Bearer {real.key}", "traceparent": f"00-{trace}-{parent}-01"}
    body = {
        "model": alias,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 12,
        "temperature": 0,
        "stream": stream,
    }
    with httpx.Client(base_url=real.url, headers=headers, timeout=120) as client:
        assert client.post("/chat/completions", json=body).status_code == 200
    server, call, engine = spans(real, trace)
    assert (server.parent, call.parent, engine.parent) == (parent, server.id, call.id)
    ours = [call.told[f"gen_ai.usage.{kind}"] for kind in ("input_tokens", "output_tokens")]
    theirs = [engine.told[f"gen_ai.usage.{kind}"] for kind in ("prompt_tokens", "completion_tokens")]
    assert ours == theirs and ours[1] <= 12
    assert server.told["sumika.request_id"] in engine.told["gen_ai.request.id"]
    assert all(name.startswith("gen_ai.") for name in engine.told) and not engine.extra
    for text in (question, answer, question[:6], answer[:6], real.key):
        assert text.encode() not in real.collector.raw


def test_engine_begins_no_trace_of_its_own(real: Real) -> None:
    """Not for the supervisor's signs of life, nor for loading: it all came before and between the requests above."""
    assert all(span.parent for span in real.collector.spans if span.resource["service.name"] == ENGINE)
