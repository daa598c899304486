"""What a collector is told of requests: true spans, joined to the client's and to the engine's, and nothing that anybody wrote."""

from __future__ import annotations

import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import select

from sumika import __version__
from sumika.models import schema, teams
from sumika.models.registry import Version
from tests.conftest import ROOT
from tests.integration.conftest import Stack, finish, free_port, start, until
from tests.integration.test_batches import Client, jsonl
from tests.integration.test_batches import request as batched
from tests.integration.test_tls import certificate as made_certificate
from tests.otlp_receiver import Receiver, Seen, receiving

SERVER, CLIENT = 2, 3
SENTENCE = "秘密の計画は山桜という名前です"
CHAT = {"messages": [{"role": "user", "content": SENTENCE}]}


@pytest.fixture(scope="module")
def collector() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def traced(collector: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    started = start(tmp_path_factory.mktemp("traced"), SUMIKA_TELEMETRY__OTLP_ENDPOINT=collector.url)
    yield started
    started.script()
    finish(started)


@pytest.fixture(scope="module")
def base(traced: Stack) -> Version:
    with traced.store.write() as connection:
        teams.create(connection, "soumu")
    version = traced.base()
    traced.deploy("talk", version)
    return version


def ask(stack: Stack, key: str | None = None, headers: Any = None, **body: Any) -> tuple[str, int]:
    """(request id, status) of an answer that was read to its end."""
    with stack.client(key) as client, client.stream(
        "POST", "/v1/chat/completions", json=CHAT | {"model": "talk"} | body, headers=headers
    ) as answer:  # fmt: skip
        answer.read()
    return answer.headers["x-request-id"], answer.status_code


def spans(collector: Receiver, request_id: str) -> tuple[Seen, list[Seen]]:
    """The gateway's span, and those of engines that it asked."""
    found = until(lambda: collector.of(request_id), what="spans of the request")
    (server,) = (span for span in found if span.kind == SERVER)
    return server, [span for span in found if span.kind == CLIENT]


@pytest.mark.parametrize("stream", [False, True])
def test_request_is_a_span_in_the_clients_trace_and_the_engines_join_it(
    traced: Stack, collector: Receiver, base: Version, stream: bool
) -> None:
    key, _ = traced.new_key(team="soumu")
    trace, parent = secrets.token_hex(16), secrets.token_hex(8)
    traced.script(chunks=4, chunk_delay_s=0.05)
    request_id, status = ask(traced, key, {"traceparent": f"00-{trace}-{parent}-01"}, stream=stream)
    traced.script()
    assert status == 200
    server, (client,) = spans(collector, request_id)
    assert (server.trace, server.parent, client.trace, client.parent) == (trace, parent, trace, server.id)
    assert traced.asked(base)["traceparent"][:-2] == f"00-{trace}-{client.id}-"
    assert int(traced.asked(base)["traceparent"][-2:], 16) & 1
    assert server.name == "POST /v1/chat/completions"
    assert server.told == {
        "http.request.method": "POST", "http.route": "/v1/chat/completions", "url.path": "/v1/chat/completions", "url.scheme": "http",
        "http.response.status_code": 200, "sumika.request_id": request_id, "sumika.alias": "talk", "sumika.version": "base@1",
        "sumika.team": "soumu",
    }  # fmt: skip
    first = client.told.pop("gen_ai.response.time_to_first_chunk", None)
    assert client.name == "chat base@1"
    assert client.told == {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "vllm", "gen_ai.request.model": "base@1",
        "gen_ai.response.model": "base@1", "server.address": Path(traced.engine_of(base).socket).name, "network.transport": "unix",
        **counted(traced, request_id),
    }  # fmt: skip
    assert (0 < first < client.seconds) if stream else first is None
    assert 0.15 < client.seconds <= server.seconds < 20
    assert not (server.failed or client.failed or server.extra or client.extra)
    assert server.resource.keys() == {"service.name", "service.version", "service.instance.id"}
    assert (server.resource["service.name"], server.resource["service.version"]) == ("sumika-gateway", __version__)


def counted(stack: Stack, request_id: str) -> dict[str, int]:
    """The same tokens that usage has."""
    names = {
        "prompt_tokens": "input_tokens", "completion_tokens": "output_tokens",
        "cached_tokens": "cache_read.input_tokens", "reasoning_tokens": "reasoning.output_tokens",
    }  # fmt: skip

    def look() -> Any:
        with stack.store.read() as connection:
            return connection.execute(select(schema.usage).where(schema.usage.c.request == request_id)).mappings().first()

    row = until(look, what="the request is counted")
    assert row["completion_tokens"] == 4
    return {f"gen_ai.usage.{name}": row[column] for column, name in names.items() if row[column] is not None}


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("traceparent", "00-" + "0" * 32 + "-" + "1" * 16 + "-01")],
        [("traceparent", f"ff-{'1' * 32}-{'1' * 16}-01")],
        [("traceparent", SENTENCE.encode().hex())],
        [("traceparent", f"00-{'1' * 32}-{'1' * 16}-01-{SENTENCE.encode().hex()}")],
        [("traceparent", f"00-{'1' * 32}-{'1' * 16}-01"), ("traceparent", f"00-{'2' * 32}-{'2' * 16}-01")],
        [("traceparent", "1" * 2_000)],
    ],
)
def test_client_that_names_no_trace_gets_one_of_its_own(
    traced: Stack, collector: Receiver, base: Version, headers: list[tuple[str, str]]
) -> None:
    server, (client,) = spans(collector, ask(traced, headers=headers)[0])
    assert server.parent == "" and client.parent == server.id
    assert server.trace not in ("1" * 32, "2" * 32, "0" * 32)


@pytest.mark.parametrize("flag", ["00", "01", "ff"])
def test_client_can_neither_hide_from_a_trace_nor_force_one(traced: Stack, collector: Receiver, base: Version, flag: str) -> None:
    trace = secrets.token_hex(16)
    server, asked = spans(collector, ask(traced, headers={"traceparent": f"00-{trace}-{'1' * 16}-{flag}"})[0])
    assert server.trace == trace and len(asked) == 1


def test_refused_request_is_a_span_without_an_engine(traced: Stack, collector: Receiver, base: Version) -> None:
    request_id, status = ask(traced, model="夜桜")
    server, asked = spans(collector, request_id)
    assert (status, server.told["http.response.status_code"], server.told["error.type"]) == (404, 404, "model_not_found")
    assert not asked and not server.failed and "sumika.alias" not in server.told


def test_who_has_no_key_makes_no_span(traced: Stack, collector: Receiver, base: Version) -> None:
    refused, status = ask(traced, "sk-sumika-" + "x" * 43)
    assert status == 401
    spans(collector, ask(traced)[0])  # what came before it has come too
    assert not collector.of(refused)


def test_what_the_engine_refuses_fails_its_span_without_its_words(traced: Stack, collector: Receiver, base: Version) -> None:
    traced.script(refuse={"status": 400, "message": f"can't parse {SENTENCE}"})
    server, (client,) = spans(collector, ask(traced)[0])
    traced.script()
    assert (client.failed, client.said, client.told["error.type"]) == (True, "", "invalid_request")
    assert (server.failed, server.told["http.response.status_code"]) == (False, 400)


def test_client_that_leaves_ends_its_spans(traced: Stack, collector: Receiver, base: Version) -> None:
    traced.script(chunks=1_000, chunk_delay_s=0.05)
    with traced.client() as client, client.stream(
        "POST", "/v1/chat/completions", json=CHAT | {"model": "talk", "stream": True}
    ) as answer:  # fmt: skip
        next(answer.iter_bytes())
    traced.script()
    server, (asked,) = spans(collector, answer.headers["x-request-id"])
    assert server.told["http.response.status_code"] == 499 and not server.failed
    assert asked.told["sumika.usage.partial"] is True and asked.told["gen_ai.usage.output_tokens"] >= 1


def test_requests_of_a_batch_are_traces_too(traced: Stack, collector: Receiver, base: Version) -> None:
    before = len(collector.spans)
    with Client(base_url=f"{traced.url}/v1", api_key=traced.admin_key) as client:
        lines = [batched(str(number), SENTENCE, model="talk") for number in range(3)]
        assert client.ended(client.batch(jsonl(*lines))).status == "completed"
    until(lambda: len(collector.spans) >= before + 6, what="spans of three requests")
    assert len({span.trace for span in collector.spans[before:] if span.kind == SERVER and not span.parent}) == 3


def test_engine_that_dies_in_a_stream_fails_both_spans(traced: Stack, collector: Receiver, base: Version) -> None:
    traced.script(die_after_chunks=2, chunk_delay_s=0.05)
    request_id, status = ask(traced, stream=True)
    traced.script()
    server, (client,) = spans(collector, request_id)
    assert status == 200 and server.told["http.response.status_code"] == 503
    assert server.failed and client.failed and server.said == client.said == ""
    assert server.told["error.type"] == client.told["error.type"] == "engine_unreachable"
    until(lambda: ask(traced)[1] == 200, what="the engine is back")


def test_engine_is_started_so_that_it_joins(traced: Stack, collector: Receiver, base: Version) -> None:
    engine = psutil.Process(traced.engine_of(base).pid or 0)
    argv, env = engine.cmdline(), engine.environ()
    assert argv[argv.index("--otlp-traces-endpoint") + 1] == f"{collector.url}/v1/traces"
    told = {name: value for name, value in env.items() if name.startswith("OTEL_")}
    assert told["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == "http/protobuf" and told["OTEL_SERVICE_NAME"] == "sumika-engine"
    assert told["OTEL_TRACES_SAMPLER"] == "parentbased_always_off"


def test_nothing_that_anybody_wrote_is_told(traced: Stack, collector: Receiver, base: Version) -> None:
    """Asked in every way, then searched for in every byte that came, those of the tests above included."""
    key, _ = traced.new_key()
    state = {"tracestate": "sumika=山桜".encode(), "baggage": b"yamazakura=1", "user-agent": b"yamazakura"}
    headers = {"traceparent": f"00-{'3' * 32}-{'4' * 16}-01", "tracestate": "yamazakura=1", "x-request-id": "yamazakura"}
    traced.script(chunk_bytes=200)
    for extra in (
        {},
        {"stream": True},
        {"user": "yamazakura"},
        {"tools": "yamazakura"},
        {"yamazakura": 1},
        {"model": "yamazakura"},
    ):
        ask(traced, key, headers, **extra)
    request_id, _ = ask(traced, key, state)
    traced.script()
    spans(collector, request_id)
    assert len(collector.raw) > 2_000
    for text in (SENTENCE, "山桜", "yamazakura", "夜桜", "x" * 50, key, key[10:40], traced.admin_key, SENTENCE.encode().hex()):
        assert text.encode() not in collector.raw, text


def test_engines_and_requests_of_a_stack_without_a_collector_know_nothing_of_it(own_stack: Stack) -> None:
    base = own_stack.base()
    own_stack.deploy("talk", base)
    assert ask(own_stack, headers={"traceparent": f"00-{'1' * 32}-{'1' * 16}-01"})[1] == 200
    assert own_stack.asked(base)["traceparent"] is None
    engine = psutil.Process(own_stack.engine_of(base).pid or 0)
    assert "--otlp-traces-endpoint" not in engine.cmdline() and not any(name.startswith("OTEL_") for name in engine.environ())


def timed_end(gateway: Stack) -> float:
    began = time.monotonic()
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(timeout=60) == 0, gateway.log.read_text()
    return time.monotonic() - began


@pytest.mark.parametrize("dead", ["refuses", "hangs"])
def test_collector_that_is_away_delays_no_answer_and_no_end(tmp_path: Path, dead: str) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if dead == "hangs":
            silent.listen()
        gateway = start(tmp_path, "gateway", SUMIKA_TELEMETRY__OTLP_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}")
        took = []
        for _ in range(50):
            began = time.monotonic()
            assert ask(gateway, model="none")[1] == 404
            took.append(time.monotonic() - began)
        assert sorted(took)[25] < 0.5
        until(lambda: "takes no traces" in gateway.log.read_text(), what="the warning")
        for _ in range(3):
            ask(gateway, model="none")
            time.sleep(1)
        assert ask(gateway, model="none")[1] == 404
        assert timed_end(gateway) < 5  # 2 for the last spans, the rest as without
        gateway.store.close()
    said = gateway.log.read_text()
    assert said.count("takes no traces") == 1 and "opentelemetry" not in said and "Traceback" not in said


def test_collector_that_comes_back_is_told_on(tmp_path: Path) -> None:
    port = free_port()
    gateway = start(tmp_path, "gateway", SUMIKA_TELEMETRY__OTLP_ENDPOINT=f"http://127.0.0.1:{port}")
    ask(gateway, model="none")
    until(lambda: "takes no traces" in gateway.log.read_text(), what="the warning")
    with receiving(port) as back:
        request_id, _ = ask(gateway, model="none")
        spans(back, request_id)
        until(lambda: "takes traces again" in gateway.log.read_text(), what="the log says so")
        last, _ = ask(gateway, model="none")
        timed_end(gateway)
        assert back.of(last), "what waited was sent at the end"
    gateway.store.close()


@pytest.mark.parametrize("trusted", [True, False])
def test_collector_with_the_companys_own_certificate_is_trusted_by_its_file(tmp_path: Path, trusted: bool) -> None:
    certificate = made_certificate(tmp_path / "tls")
    env = {"HTTPS_PROXY": "http://127.0.0.1:9"}  # asked by nobody
    if trusted:
        env["OTEL_EXPORTER_OTLP_CERTIFICATE"] = str(certificate)
    with receiving(certificate=certificate) as collector:
        gateway = start(tmp_path, "gateway", SUMIKA_TELEMETRY__OTLP_ENDPOINT=f"https://localhost:{collector.port}", **env)
        request_id, _ = ask(gateway, model="none")
        until(lambda: collector.of(request_id) or "takes no traces" in gateway.log.read_text(), what="sent, or not")
        assert bool(collector.of(request_id)) is trusted
        timed_end(gateway)
        gateway.store.close()


def test_each_worker_sends_its_own(collector: Receiver, tmp_path: Path, valkey: str) -> None:
    several = {"SUMIKA_GATEWAY__WORKERS": "2", "SUMIKA_GATEWAY__LIMITS_URL": valkey}
    gateway = start(tmp_path, "gateway", SUMIKA_TELEMETRY__OTLP_ENDPOINT=collector.url, **several)
    ids: set[str] = set()

    def both() -> bool:
        ids.add(ask(gateway, model="none")[0])  # over a connection of its own, which the kernel gives to some worker
        seen = [span for span in list(collector.spans) if span.told.get("sumika.request_id") in ids]
        return len({span.resource["service.instance.id"] for span in seen}) == 2

    until(both, what="spans of both workers")
    timed_end(gateway)
    gateway.store.close()


@pytest.mark.parametrize("traced", [False, True])
def test_gateway_that_traces_nothing_loads_no_opentelemetry(tmp_path: Path, traced: bool) -> None:
    """Made, opened and closed as a worker does it; what it loaded then."""
    code = f"""
import asyncio, sys
from sumika.models.bootstrap import open_store
from sumika.models.settings import Settings
from sumika.serving import gateway_role, supervisor_role
from sumika.serving.app import create_app

settings = Settings(home={str(tmp_path / "home")!r}, telemetry={{"otlp_endpoint": {"http://127.0.0.1:9" if traced else None!r}}})
app = create_app(settings, open_store(settings))

async def live():
    async with app.router.lifespan_context(app):
        pass

asyncio.run(live())
print(*{{name.split(".")[0] for name in sys.modules}})
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ("opentelemetry" in told.stdout.split()) is traced
    assert ("requests" in told.stdout.split()) is traced
