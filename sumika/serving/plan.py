"""What the registry wants of the engines: pure functions from rows to wishes, so that policy is tested without processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sumika.models import clock
from sumika.models.aliases import Alias, Move
from sumika.models.engines import GatewayRow
from sumika.models.registry import Version

# A gateway worker that has not been heard of for this long is gone, and its requests with it.
GATEWAY_GONE = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Wish:
    """One base that must be served, and the adapters its engine must hold."""

    base: Version
    adapters: Mapping[str, Version] = field(default_factory=dict)


def wishes(
    aliases: Iterable[Alias], moves: Iterable[Move], versions: Mapping[int, Version], before: Iterable[int] = ()
) -> dict[int, Wish]:
    """By base id: what the aliases point to, and what open moves want them to point to.

    `before` are the versions that a rollback would lead back to: an adapter among them stays loaded where its base is
    served anyway, so that a rollback waits for nothing; it never keeps a base running.
    """
    wanted: dict[int, dict[str, Version]] = defaultdict(dict)
    for version_id in [alias.version_id for alias in aliases] + [move.to_id for move in moves]:
        version = versions[version_id]
        adapters = wanted[version.engine_base_id]
        if version.kind == "adapter":
            adapters[str(version.ref)] = version
    for version in (versions[version_id] for version_id in before):
        if version.kind == "adapter" and version.engine_base_id in wanted:
            wanted[version.engine_base_id][str(version.ref)] = version
    return {base_id: Wish(versions[base_id], adapters) for base_id, adapters in wanted.items()}


def live(gateways: Iterable[GatewayRow], now: datetime) -> list[GatewayRow]:
    return [gateway for gateway in gateways if now - clock.parse(gateway.beat_at) < GATEWAY_GONE]


def unused(version: str, since_revision: int, gateways: Iterable[GatewayRow]) -> bool:
    """Whether no live gateway can still send `version` to an engine: each has seen that it is not wanted
    (`since_revision`), and has none of its requests running."""
    return all(g.seen_revision >= since_revision and not g.running.get(version) for g in gateways)
