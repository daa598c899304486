"""Settings of what other programs of the company are told about requests: where OpenTelemetry's traces go."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, field_validator

from sumika.models import addresses

# What OTLP over HTTP appends to its base address (OpenTelemetry protocol specification, "OTLP/HTTP Request").
_TRACES = "/v1/traces"


class TelemetrySettings(BaseModel):
    """`otlp_endpoint`: base address of a collector that takes OTLP over HTTP, for example http://collector.example.co.jp:4318."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    otlp_endpoint: str | None = None

    @field_validator("otlp_endpoint")
    @classmethod
    def _plain_address(cls, url: str | None) -> str | None:
        """No credentials: engines get this address on their command line, which everybody on the machine can read."""
        if url is None:
            return None
        addresses.parse(url)
        if url.rstrip("/").endswith(_TRACES):
            raise ValueError(f"must end before {_TRACES}, which is appended to it")
        return url

    @property
    def traces_url(self) -> str | None:
        """Where traces are sent; None: nowhere."""
        return None if self.otlp_endpoint is None else self.otlp_endpoint.rstrip("/") + _TRACES
