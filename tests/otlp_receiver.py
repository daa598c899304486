"""A collector: takes OTLP over HTTP in a thread, reads the protobuf and keeps the spans."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue


@dataclass(frozen=True)
class Seen:
    """One span as it came; ids in hexadecimal, `parent` empty for a root. `kind`: 2 server, 3 client; `failed`: its status says so."""

    name: str
    trace: str
    id: str
    parent: str
    kind: int
    seconds: float
    failed: bool
    said: str
    told: dict[str, Any]
    resource: dict[str, Any]
    extra: int


@dataclass
class Receiver:
    """`raw`: all that came, to be searched for what must not be in it."""

    port: int
    spans: list[Seen] = field(default_factory=list)
    raw: bytes = b""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def of(self, request_id: str) -> list[Seen]:
        """The spans of one request's trace; none as long as the gateway's own, which ends last, is not there."""
        roots = [span for span in list(self.spans) if span.told.get("sumika.request_id") == request_id]
        return [span for span in list(self.spans) if roots and span.trace == roots[0].trace]

    def take(self, path: str, body: bytes) -> None:
        assert path == "/v1/traces", path
        self.raw += body
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            about = _plain(group.resource.attributes)
            for span in (span for scope in group.scope_spans for span in scope.spans):
                self.spans.append(Seen(
                    span.name, span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex(), span.kind,
                    (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9, span.status.code == 2, span.status.message,
                    _plain(span.attributes), about, len(span.events) + len(span.links) + bool(span.trace_state),
                ))  # fmt: skip


def _plain(attributes: Any) -> dict[str, Any]:
    def value(of: AnyValue) -> Any:
        return getattr(of, of.WhichOneof("value") or "string_value")

    return {one.key: value(one.value) for one in attributes if isinstance(one, KeyValue)}


@contextmanager
def receiving(port: int = 0, certificate: Path | None = None) -> Iterator[Receiver]:
    """With a `certificate` by TLS, its key beside it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.headers["content-type"] == "application/x-protobuf"
            receiver.take(self.path, self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        if certificate is not None:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate, certificate.with_suffix(".key"))
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        receiver = Receiver(server.server_address[1])
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
