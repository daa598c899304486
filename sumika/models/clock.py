"""The one spelling of a moment in the store: UTC, ISO 8601, microseconds, sortable as text."""

from __future__ import annotations

from datetime import UTC, datetime

_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"


def now() -> str:
    return spell(datetime.now(UTC))


def spell(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[: -len("+00:00")] + "Z"  # a fourth of strftime's time


def now_seconds() -> int:
    return int(datetime.now(UTC).timestamp())


def parse(moment: str) -> datetime:
    return datetime.strptime(moment, _FORMAT).replace(tzinfo=UTC)


def seconds(moment: str | None) -> int | None:
    """Of the epoch, as OpenAI's API tells moments."""
    return None if moment is None else int(parse(moment).timestamp())
