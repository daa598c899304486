"""Leases with fencing tokens: of several processes that could do a job, one does it, and one that slept too long can't.

A holder renews its lease before it expires; another takes it over afterwards with a higher token. Every write of the
holder checks its token in the same transaction, so a holder that was paused and wakes finds its writes refused.
Hosts' clocks must agree to well within the lease's time (NTP).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from sumika.models import clock, schema
from sumika.models.errors import SumikaError

_l = schema.leases
# What ends later than a lease can, by this much, was taken before the clock was put back; its holder, if it lives, renews it soon.
_AHEAD = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Lease:
    """One holder's turn; `token` grows with every change of holder."""

    name: str
    holder: str
    token: int


def take(connection: Connection, name: str, holder: str, ttl_s: float) -> Lease | None:
    """The lease, if it was free, expired or ours already; None while another holds it."""
    now = datetime.now(UTC)
    until = clock.spell(now + timedelta(seconds=ttl_s))
    row = connection.execute(select(_l).where(_l.c.name == name)).one_or_none()
    if row is None:
        try:
            with connection.begin_nested():  # a failed statement would end PostgreSQL's whole transaction
                connection.execute(insert(_l).values(name=name, holder=holder, token=1, until=until))
        except IntegrityError:  # somebody else was first
            return None
        return Lease(name, holder, 1)
    longest = clock.spell(now + timedelta(seconds=ttl_s) + _AHEAD)
    if row.holder != holder and clock.spell(now) < row.until <= longest:
        return None
    token = row.token if row.holder == holder else row.token + 1
    taken = connection.execute(
        update(_l)
        .where(_l.c.name == name, _l.c.token == row.token, _l.c.until == row.until)
        .values(holder=holder, token=token, until=until)
    )
    return Lease(name, holder, token) if taken.rowcount == 1 else None


def until(connection: Connection, name: str) -> str | None:
    """When the lease runs out if nobody renews it; None while nobody ever had it."""
    return connection.scalar(select(_l.c.until).where(_l.c.name == name))


def check(connection: Connection, lease: Lease, *, lock: bool = True) -> None:
    """Check that the lease is still this holder's and, with `lock`, keep it so until the caller's transaction ends.

    Raises:
        SumikaError: `fenced`, when the lease went to another holder; the caller's transaction must not go on.
    """
    # Writers wait for each other (`Store.write`). The row is locked for a takeover that does not come that way.
    held = select(_l.c.token).where(_l.c.name == lease.name, _l.c.holder == lease.holder)
    token = connection.scalar(held.with_for_update(read=True) if lock else held)
    if token != lease.token:
        raise SumikaError(
            "fenced",
            f"Another process took over as {lease.name}; this one stops acting.",
            f"別のプロセスが {lease.name} を引き継いだため、このプロセスは停止します。",
            status=409,
        )


def give_back(connection: Connection, lease: Lease) -> None:
    """Let the next one in at once; nothing happens if it is not ours any more."""
    connection.execute(
        update(_l)
        .where(_l.c.name == lease.name, _l.c.holder == lease.holder, _l.c.token == lease.token)
        .values(until=clock.now())
    )
