"""The engines' own figures, gathered over their private sockets: those that are named here, each with its base, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence

import aiohttp
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector, CollectorRegistry

from sumika.models.engines import EngineRow
from sumika.serving import engine_routes

# Of vLLM's families (v1/metrics/loggers.py) those that tell load and speed; names of adapters and of requests' parameters stay inside.
FAMILIES = frozenset(
    f"vllm:{name}"
    for name in (
        "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "num_preemptions", "prompt_tokens", "generation_tokens", "prompt_tokens_cached",
        "prefix_cache_queries", "prefix_cache_hits", "time_to_first_token_seconds", "inter_token_latency_seconds", "request_queue_time_seconds",
        "request_prefill_time_seconds", "request_decode_time_seconds", "request_success", "iteration_tokens_total", "engine_sleep_state",
    )
)  # fmt: skip
_PATIENCE = aiohttp.ClientTimeout(total=3)
_MOST_BYTES = 4 * 2**20
_KEPT_LABELS = frozenset({"le", "finished_reason"})


async def text(rows: Mapping[int, Sequence[EngineRow]], bases: Mapping[int, str]) -> bytes:
    """Prometheus's text of every engine that is ready, by base and engine; one that does not answer in time says so and no more."""
    ready = [row for some in rows.values() for row in some if row.state == "ready"]
    told = await asyncio.gather(*(_ask(row.socket) for row in ready))
    registry = CollectorRegistry()
    registry.register(_Told({(bases[row.base_id], row.id): text for row, text in zip(ready, told, strict=True)}))
    return generate_latest(registry)


async def _ask(socket: str) -> str | None:
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=socket), timeout=_PATIENCE) as session,
            session.get(f"http://engine{engine_routes.path('gateway', 'GET', '/metrics')}") as answer,
        ):
            data = await answer.content.read(_MOST_BYTES)
            return data.decode(errors="replace") if answer.status == 200 else None
    except (OSError, TimeoutError, aiohttp.ClientError):
        return None


class _Told(Collector):
    """What engines said, put together by family."""

    def __init__(self, told: Mapping[tuple[str, str], str | None]) -> None:
        self._told = told

    def collect(self) -> Iterable[Metric]:
        up = GaugeMetricFamily("sumika_engine_answers", "Whether an engine told its figures", labels=["base", "engine"])
        together: dict[str, Metric] = {}
        for (base, engine), text in self._told.items():
            up.add_metric([base, engine], text is not None)
            for family in _families(text or ""):
                whole = together.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    kept = {name: value for name, value in sample.labels.items() if name in _KEPT_LABELS}
                    whole.add_sample(sample.name, {"base": base, "engine": engine, **kept}, sample.value)
        return [up, *together.values()]


def _families(text: str) -> Iterator[Metric]:
    try:
        for family in text_string_to_metric_families(text):
            if family.name in FAMILIES:
                yield family
    except ValueError:
        return  # what an engine says is not ours to be broken by
