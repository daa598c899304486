"""Reserves what a request may take, and settles what it took: requests and tokens by minute, streams at once, the month's budget.

Nobody's answer depends on the shared ledger: while it is gone each worker counts by itself, against the whole limit, and the
metric `sumika_limits_alone` says so. Budgets do not lie there and hold on.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sumika.models.limits import Limits
from sumika.models.usage.table import Subject
from sumika.serving.limiting import refusals, window
from sumika.serving.limiting.ledger import Ledger, LedgerGone
from sumika.serving.limiting.memory import MemoryLedger
from sumika.serving.limiting.standing import Standing, Unit
from sumika.serving.metrics import Metrics

log = logging.getLogger(__name__)

_ALONE_S = 1.0


class Charge(NamedTuple):
    """`cost` of `limit` for one subject, on the `counter` of the minute it was reserved in; `before` is that of the minute before."""

    subject: Subject
    unit: Unit
    limit: int
    cost: int
    minute: int
    counter: str
    before: str


@dataclass(slots=True)
class Reservation:
    """What is held for one request until `Limiter.settle`."""

    ledger: Ledger
    place: str = ""
    streams: list[str] = field(default_factory=list)
    charges: list[Charge] = field(default_factory=list)
    budgets: list[Subject] = field(default_factory=list)
    estimate: int = 0
    standings: list[Standing] = field(default_factory=list)

    @property
    def counts_tokens(self) -> bool:
        """Whether tokens were reserved, by the minute or of the month."""
        return bool(self.budgets) or any(charge.unit == "tokens" for charge in self.charges)


class Limiter:
    """`limits`: what is set now. `spent`: tokens of this month by subject."""

    def __init__(
        self,
        limits: Callable[[], Mapping[Subject, Limits]],
        spent: Callable[[Subject], int],
        shared: Ledger | None,
        metrics: Metrics,
    ) -> None:
        self._limits = limits
        self._spent = spent
        self._shared = shared
        self._alone = MemoryLedger()
        self._alone_until = 0.0
        self._metrics = metrics
        self._promised: Counter[Subject] = Counter()
        self._worker = secrets.token_hex(8)
        self._places = itertools.count()

    async def reserve(self, subjects: Sequence[Subject], estimate: int) -> Reservation | None:
        """Hold what a request of about `estimate` tokens needs; None where no limit is set for any of `subjects`.

        Raises:
            SumikaError: `rate_limit_exceeded`, `insufficient_quota` (429); then nothing is held.
        """
        known = self._limits()
        limited = [(subject, known[subject]) for subject in subjects if subject in known]
        if not limited:
            return None
        if self._shared is not None and time.monotonic() >= self._alone_until:
            try:
                return await self._reserve(self._shared, limited, estimate)
            except LedgerGone as gone:
                self._goes_alone(gone)
        return await self._reserve(self._alone, limited, estimate)

    async def settle(self, held: Reservation, tokens: int) -> None:
        """Count `tokens` in place of the estimate, and free the rest."""
        self._promised.subtract(dict.fromkeys(held.budgets, held.estimate))
        now = window.minute(time.time())
        changes = dict(_settled(charge, tokens, now) for charge in held.charges if charge.unit == "tokens")
        try:
            if changes := {name: change for name, change in changes.items() if change}:
                await held.ledger.add(changes)
            if held.streams:
                await held.ledger.leave(held.place, held.streams)
        except LedgerGone as gone:
            self._goes_alone(gone)

    async def _reserve(self, ledger: Ledger, limited: Sequence[tuple[Subject, Limits]], estimate: int) -> Reservation:
        held = Reservation(ledger, estimate=estimate)
        self._promise_budgets(held, limited)
        try:
            await self._take_streams(held, limited)
            await self._charge(held, limited)
        except BaseException:
            await self.settle(held, 0)
            raise
        return held

    def _promise_budgets(self, held: Reservation, limited: Sequence[tuple[Subject, Limits]]) -> None:
        """In one step of the event loop, so that no other request is promised the same tokens."""
        budgets = [(subject, limits.tokens_per_month) for subject, limits in limited if limits.tokens_per_month is not None]
        for subject, budget in budgets:
            left = budget - self._spent(subject) - self._promised[subject]
            if left < held.estimate:
                raise refusals.no_budget(subject, budget, max(0, left), held.estimate)
        held.budgets = [subject for subject, _ in budgets]
        self._promised.update(dict.fromkeys(held.budgets, held.estimate))

    async def _take_streams(self, held: Reservation, limited: Sequence[tuple[Subject, Limits]]) -> None:
        most = {f"{kind}:{name}": limits.streams for (kind, name), limits in limited if limits.streams is not None}
        if not most:
            return
        held.place = f"{self._worker}:{next(self._places)}"
        full = await held.ledger.take(held.place, most)
        if full is not None:
            raise refusals.too_many_streams(full, most[full])
        held.streams = list(most)

    async def _charge(self, held: Reservation, limited: Sequence[tuple[Subject, Limits]]) -> None:
        now = time.time()
        charges = _charges(limited, held.estimate, window.minute(now))
        if not charges:
            return
        added = await held.ledger.add({charge.counter: charge.cost for charge in charges})
        before = await held.ledger.read([charge.before for charge in charges])
        used = list(map(window.used, before, added, itertools.repeat(now)))
        held.standings = [
            Standing(charge.unit, charge.limit, max(0, charge.limit - taken), window.reset_s(previous, current, now))
            for charge, previous, current, taken in zip(charges, before, added, used, strict=True)
        ]
        for charge, previous, current, taken in zip(charges, before, added, used, strict=True):
            if taken > charge.limit:
                await held.ledger.add({charge.counter: -charge.cost for charge in charges})
                wait = window.wait_s(charge.limit, charge.cost, previous, current - charge.cost, now)
                raise refusals.too_fast(charge.subject, charge.unit, charge.limit, wait, held.standings)
        held.charges = charges

    def _goes_alone(self, gone: LedgerGone) -> None:
        if time.monotonic() >= self._alone_until:
            log.error("the limits' server does not answer (%s); this worker counts by itself", gone)
        self._alone_until = time.monotonic() + _ALONE_S
        self._metrics.limits_alone.inc()


def _charges(limited: Sequence[tuple[Subject, Limits]], estimate: int, minute: int) -> list[Charge]:
    charges = []
    for subject, limits in limited:
        if (requests := limits.requests_per_minute) is not None:
            charges.append(_charge(subject, "requests", requests, 1, minute))
        if (tokens := limits.tokens_per_minute) is not None:
            # One request may be larger than a minute's tokens: it then takes them all.
            charges.append(_charge(subject, "tokens", tokens, min(estimate, tokens), minute))
    return charges


def _charge(subject: Subject, unit: Unit, limit: int, cost: int, minute: int) -> Charge:
    name = f"{subject[0]}:{subject[1]}:{unit}:"
    return Charge(subject, unit, limit, cost, minute, f"{name}{minute}", f"{name}{minute - 1}")


def _settled(charge: Charge, tokens: int, now: int) -> tuple[str, int]:
    """Which counter changes by how much. What was used beyond the estimate counts from now on."""
    change = tokens - charge.cost
    if change > 0 and now != charge.minute:
        return _charge(charge.subject, charge.unit, 0, 0, now).counter, change
    return charge.counter, change if change > 0 or now - charge.minute <= 1 else 0
