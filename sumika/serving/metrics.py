"""Prometheus metrics of the gateway. Where it has several workers, prometheus_client lets each write into files of the folder that
`PROMETHEUS_MULTIPROC_DIR` names, and any of them tells the sum. Labels come from the registry, never from a client's text."""

from __future__ import annotations

import os
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKEN_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
UNKNOWN = "-"
_FIGURES = "PROMETHEUS_MULTIPROC_DIR"


class Metrics:
    """A registry of its own, so that two apps in one process do not share figures."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "sumika_requests", "Requests by the alias they named and the status they ended with", ["alias", "status"],
            registry=self.registry,
        )  # fmt: skip
        self.first_byte = Histogram(
            "sumika_first_byte_seconds", "From request to the first byte of the answer", ["alias"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.duration = Histogram(
            "sumika_request_seconds", "From request to the end of the answer", ["alias"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.tokens = Counter(
            "sumika_tokens", "Tokens as the engines counted them: prompt (of which cached), completion (of which reasoning)", ["alias", "kind"],
            registry=self.registry,
        )  # fmt: skip
        self.token = Histogram(
            "sumika_token_seconds", "Between two tokens of an answer that came as a stream, its mean", ["alias"],
            buckets=_TOKEN_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.running = Gauge(
            "sumika_requests_running", "Requests under way", ["version"], registry=self.registry, multiprocess_mode="livesum"
        )
        self.engines = Gauge("sumika_engines", "Engines by state", ["state"], registry=self.registry, multiprocess_mode="livemax")

        self.audit_lost = Counter("sumika_audit_lost", "Requests whose row of the audit log was lost", registry=self.registry)
        self.queued = Gauge(
            "sumika_requests_queued", "Requests that wait for an engine with room", registry=self.registry,
            multiprocess_mode="livesum",
        )  # fmt: skip
        self.limits_alone = Counter(
            "sumika_limits_alone", "Times that this worker counted limits by itself, for want of the shared server",
            registry=self.registry,
        )  # fmt: skip
        self.usage_lost = Counter("sumika_usage_lost", "Requests whose usage was lost", registry=self.registry)

        self._seen_running: set[str] = set()

    def tell_running(self, counts: Mapping[str, int]) -> None:
        """Requests under way, by version."""
        self._seen_running |= counts.keys()
        for version in self._seen_running:
            self.running.labels(version).set(counts.get(version, 0))

    def text(self) -> bytes:
        if _FIGURES not in os.environ:
            return generate_latest(self.registry)
        together = CollectorRegistry()
        MultiProcessCollector(together, os.environ[_FIGURES])  # type: ignore[no-untyped-call]
        return generate_latest(together)
