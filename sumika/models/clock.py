"""The one spelling of a moment in the store: UTC, ISO 8601, microseconds, sortable as text."""

from __future__ import annotations

from datetime import UTC, datetime

_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"


def now() -> str:
    return spell(datetime.now(UTC))


def spell(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[: -len("+00:00")] + "Z"  # a fourth of strftime's time


def parse(moment: str) -> datetime:
    return datetime.strptime(moment, _FORMAT).replace(tzinfo=UTC)
