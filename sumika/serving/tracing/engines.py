"""How vLLM is told to trace: an engine's spans join those of the request that the gateway sent it."""

from __future__ import annotations


def arguments(url: str | None) -> list[str]:
    """What is added to its command line."""
    return [] if url is None else ["--otlp-traces-endpoint", url]


def environment(url: str | None) -> dict[str, str]:
    """What is added to its environment; nothing where nothing is traced."""
    if url is None:
        return {}
    return {
        "OTEL_SERVICE_NAME": "sumika-engine",
        # vLLM speaks gRPC unless it is told so.
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        # Only what belongs to a request of the gateway's: neither the supervisor's signs of life nor how the engine was loaded.
        "OTEL_TRACES_SAMPLER": "parentbased_always_off",
        "OTEL_BSP_SCHEDULE_DELAY": "1000",
        # An engine that ends sends the rest first; a collector that is away must not take its time to stop.
        "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "2",
        "OTEL_BSP_MAX_QUEUE_SIZE": "512",
    }
