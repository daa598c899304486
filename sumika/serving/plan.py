"""What the registry wants of the engines: pure functions from rows to wishes, so that policy is tested without processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sumika.models import clock
from sumika.models.aliases import Alias
from sumika.models.engines import GatewayRow
from sumika.models.moves import Move
from sumika.models.registry import Version

# A gateway worker that has not been heard of for this long is gone, and its requests with it.
GATEWAY_GONE = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Wish:
    """One base that must be served, by so many engines, and the adapters that each must hold."""

    base: Version
    adapters: Mapping[str, Version] = field(default_factory=dict)
    replicas: int = 1


def wishes(
    aliases: Sequence[Alias],
    moves: Iterable[Move],
    versions: Mapping[int, Version],
    before: Iterable[int] = (),
    scales: Mapping[str, int] | None = None,
) -> dict[int, Wish]:
    """By base id: what the aliases and their canaries lead to, and what open moves want them to lead to.

    A move that is `holding` has let go of what its alias leads to; one that is `returning` has let go of its target; one
    that is `rolling` leaves the old base an engine less. `before` are the versions that a rollback would lead back to: an
    adapter among them stays loaded where its base is served anyway, so that a rollback waits for nothing; it never keeps
    a base running. `scales`: engines by base name.
    """
    under_way = {move.alias: move for move in moves}
    ids = _led_to(aliases, under_way) + [move.to_id for move in under_way.values() if move.step != "returning"]
    wanted: dict[int, dict[str, Version]] = defaultdict(dict)
    for version in (versions[version_id] for version_id in ids):
        wanted[version.engine_base_id] |= {str(version.ref): version} if version.kind == "adapter" else {}
    for version in (versions[version_id] for version_id in before):
        if version.kind == "adapter" and version.engine_base_id in wanted:
            wanted[version.engine_base_id][str(version.ref)] = version
    rolling = (alias for alias in aliases if alias.name in under_way and under_way[alias.name].step == "rolling")
    fewer = {versions[alias.version_id].engine_base_id for alias in rolling}
    counts = {base_id: (scales or {}).get(versions[base_id].ref.name, 1) - (base_id in fewer) for base_id in wanted}
    return {base_id: Wish(versions[base_id], wanted[base_id], max(1, counts[base_id])) for base_id in wanted}


def _led_to(aliases: Sequence[Alias], under_way: Mapping[str, Move]) -> list[int]:
    """Versions that aliases lead to, and their canaries, less those that a move has let go of."""
    held_on = (a.version_id for a in aliases if a.name not in under_way or under_way[a.name].step != "holding")
    return [*held_on, *(a.canary_id for a in aliases if a.canary_id is not None)]


def live(gateways: Iterable[GatewayRow], now: datetime) -> list[GatewayRow]:
    """Those heard of lately; not those that died before the clock was put back, whose last sign lies in the future."""
    return [gateway for gateway in gateways if abs(now - clock.parse(gateway.beat_at)) < GATEWAY_GONE]


def unused(engine: str, since_revision: int, gateways: Iterable[GatewayRow], version: str | None = None) -> bool:
    """Whether no live gateway can still send a request for `version` (None: any) to `engine`: each has seen that it is not
    wanted there (`since_revision`), and has none of its requests running."""

    def runs(gateway: GatewayRow) -> int:
        here = gateway.running.get(engine, {})
        return sum(here.values()) if version is None else here.get(version, 0)

    return all(gateway.seen_revision >= since_revision and not runs(gateway) for gateway in gateways)


def waiting(gateways: Iterable[GatewayRow]) -> dict[int, int]:
    """Requests that wait for an engine, by base id."""
    total: dict[int, int] = defaultdict(int)
    for gateway in gateways:
        for base_id, count in gateway.waiting.items():
            total[base_id] += count
    return total
