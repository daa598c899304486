"""What was written before the clock was put back lies in the future: nobody who died then passes for alive."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import update

from sumika.models import clock, leases, schema
from sumika.models.engines import GatewayRow
from sumika.models.store import Store
from sumika.serving import plan

HOUR = timedelta(hours=1)
TTL_S = 3.0


def test_lease_that_ends_later_than_any_can_is_free(store: Store) -> None:
    with store.write() as connection:
        first = leases.take(connection, "supervisor", "a", TTL_S)
        assert first is not None and leases.take(connection, "supervisor", "b", TTL_S) is None
        ahead = clock.spell(datetime.now(UTC) + HOUR)
        connection.execute(update(schema.leases).values(until=ahead))
        second = leases.take(connection, "supervisor", "b", TTL_S)
        assert second is not None and second.token == first.token + 1


def test_lease_of_a_host_whose_clock_is_a_little_ahead_is_held(store: Store) -> None:
    with store.write() as connection:
        leases.take(connection, "supervisor", "a", TTL_S)
        connection.execute(update(schema.leases).values(until=clock.spell(datetime.now(UTC) + timedelta(seconds=TTL_S + 5))))
        assert leases.take(connection, "supervisor", "b", TTL_S) is None


def test_gateway_whose_last_sign_lies_in_the_future_is_gone() -> None:
    now = datetime.now(UTC)
    rows = [
        GatewayRow(name, 1, 1, {}, clock.spell(at), {})
        for name, at in (("lives", now), ("died", now + HOUR), ("silent", now - HOUR))
    ]
    assert [row.id for row in plan.live(rows, now)] == ["lives"]
