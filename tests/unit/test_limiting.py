"""Limits: the sliding minute, what is reserved and settled, in memory and on a real Valkey alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sumika.models import limits
from sumika.models.errors import SumikaError
from sumika.models.limits import Limits
from sumika.models.store import Store
from sumika.models.usage.table import Subject
from sumika.serving.limiting import shared, window
from sumika.serving.limiting.headers import headers, spelled
from sumika.serving.limiting.ledger import Ledger, LedgerGone
from sumika.serving.limiting.limiter import Limiter, Reservation
from sumika.serving.limiting.memory import MemoryLedger
from sumika.serving.limiting.refusals import RateLimited
from sumika.serving.limiting.shared import SharedLedger
from sumika.serving.metrics import Metrics

KEY: Subject = ("key", "k1")
TEAM: Subject = ("team", "sales")
ALIAS: Subject = ("alias", "faq")


@pytest.fixture(params=["memory", "valkey"])
async def ledger(request: pytest.FixtureRequest) -> AsyncIterator[Ledger]:
    if request.param == "memory":
        yield MemoryLedger()
        return
    url = request.getfixturevalue("valkey")
    made = SharedLedger(url)
    for key in await made._redis.keys("sumika*"):
        await made._redis.delete(key)
    yield made
    await made.close()


class Clock:
    """Seconds that pass when told to; minutes begin at multiples of 60."""

    def __init__(self) -> None:
        self.now = 60_000_000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return time.monotonic()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("sumika.serving.limiting.limiter.time", made)
    return made


def limiter(ledger: Ledger, spent: dict[Subject, int] | None = None, **of: Any) -> Limiter:
    """With the limits `of` key, team and alias."""
    known = {{"key": KEY, "team": TEAM, "alias": ALIAS}[kind]: one for kind, one in of.items()}
    return Limiter(lambda: known, lambda subject: (spent or {}).get(subject, 0), ledger, Metrics())


async def asks(one: Limiter, estimate: int = 10, *subjects: Subject) -> Reservation:
    held = await one.reserve(subjects or (KEY, TEAM, ALIAS), estimate)
    assert held is not None
    return held


async def refused(one: Limiter, estimate: int = 10, *subjects: Subject) -> SumikaError:
    with pytest.raises(SumikaError) as told:
        await one.reserve(subjects or (KEY, TEAM, ALIAS), estimate)
    assert told.value.status == 429
    return told.value


async def test_without_limits_nothing_is_held_and_nothing_told(ledger: Ledger) -> None:
    assert await limiter(ledger).reserve([KEY], 10) is None


async def test_requests_a_minute(ledger: Ledger, clock: Clock) -> None:
    one = limiter(ledger, key=Limits(requests_per_minute=3))
    told = [dict(headers((await asks(one)).standings)) for _ in range(3)]
    assert [t["x-ratelimit-remaining-requests"] for t in told] == ["2", "1", "0"]
    assert told[0]["x-ratelimit-limit-requests"] == "3" and "x-ratelimit-limit-tokens" not in told[0]
    error = await refused(one)
    assert error.code == "rate_limit_exceeded" and error.retry_after is not None and 60 <= error.retry_after <= 120
    assert isinstance(error, RateLimited) and dict(headers(error.standings))["x-ratelimit-remaining-requests"] == "0"
    clock.now += error.retry_after
    await asks(one)


async def test_what_was_refused_costs_nothing(ledger: Ledger, clock: Clock) -> None:
    one = limiter(ledger, key=Limits(requests_per_minute=100), team=Limits(requests_per_minute=2, tokens_per_minute=100))
    for _ in range(2):
        await asks(one)
    for _ in range(20):
        await refused(one)
    left = await asks(one, 10, KEY)
    assert dict(headers(left.standings))["x-ratelimit-remaining-requests"] == "97"


async def test_tokens_are_reserved_and_settled_by_what_was_used(ledger: Ledger, clock: Clock) -> None:
    one = limiter(ledger, key=Limits(tokens_per_minute=100))
    held = await asks(one, 90)
    assert dict(headers(held.standings))["x-ratelimit-remaining-tokens"] == "10"
    await refused(one, 20)
    await one.settle(held, 15)
    held = await asks(one, 80)
    await one.settle(held, 95)  # more than was guessed
    assert (await refused(one, 1)).code == "rate_limit_exceeded"


async def test_one_request_larger_than_the_limit_takes_a_whole_minute(ledger: Ledger, clock: Clock) -> None:
    one = limiter(ledger, key=Limits(tokens_per_minute=100))
    held = await asks(one, 5_000)
    await refused(one, 1)
    await one.settle(held, 100)
    await refused(one, 1)


async def test_settling_after_the_minute_frees_nothing_in_the_next(ledger: Ledger, clock: Clock) -> None:
    one = limiter(ledger, key=Limits(tokens_per_minute=100))
    held = await asks(one, 100)
    clock.now += 180
    await asks(one, 60)
    await one.settle(held, 0)
    await refused(one, 60)


async def test_the_tightest_limit_is_told(ledger: Ledger, clock: Clock) -> None:
    one = limiter(ledger, key=Limits(requests_per_minute=50), alias=Limits(requests_per_minute=5, tokens_per_minute=1000))
    told = dict(headers((await asks(one)).standings))
    assert told == {
        "x-ratelimit-limit-requests": "5", "x-ratelimit-remaining-requests": "4", "x-ratelimit-reset-requests": "2m0s",
        "x-ratelimit-limit-tokens": "1000", "x-ratelimit-remaining-tokens": "990", "x-ratelimit-reset-tokens": "2m0s",
    }  # fmt: skip


async def test_streams_at_once(ledger: Ledger) -> None:
    one = limiter(ledger, key=Limits(streams=5), team=Limits(streams=2))
    held = [await asks(one), await asks(one)]
    error = await refused(one)
    assert error.code == "rate_limit_exceeded" and error.retry_after == 1 and "2" in error.en
    for each in held:
        await one.settle(each, 1)
    held = [await asks(one, 10, KEY) for _ in range(5)]  # what was refused for the team holds no place of the key
    await refused(one, 10, KEY)


async def test_a_place_is_given_back_when_another_limit_refuses(ledger: Ledger, clock: Clock) -> None:
    one = limiter(ledger, key=Limits(streams=2, requests_per_minute=1))
    await one.settle(await asks(one), 1)
    for _ in range(5):
        assert "a minute" in (await refused(one)).en


async def test_many_at_once_never_pass_a_limit(ledger: Ledger, clock: Clock) -> None:
    one = limiter(ledger, key=Limits(requests_per_minute=20), team=Limits(tokens_per_minute=150, streams=12))
    told = await asyncio.gather(*(one.reserve((KEY, TEAM), 10) for _ in range(60)), return_exceptions=True)
    held = [each for each in told if isinstance(each, Reservation)]
    assert 1 <= len(held) <= 12
    assert all(isinstance(each, Reservation) or isinstance(each, SumikaError) for each in told)


async def test_the_months_budget_counts_what_is_under_way(ledger: Ledger) -> None:
    spent = {TEAM: 900}
    one = limiter(ledger, spent, team=Limits(tokens_per_month=1000))
    held = await asks(one, 60)
    error = await refused(one, 60)
    assert error.code == "insufficient_quota" and "40" in error.en and error.retry_after is None
    await one.settle(held, 5)
    spent[TEAM] += 5
    await asks(one, 60)


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 10**6), st.floats(0, 59.99))
def test_after_the_time_that_is_told_it_fits(limit: int, previous: int, current: int, cost: int, into: float) -> None:
    """And not before: one second less, and it does not."""
    cost = min(cost, limit)
    now = 6_000_000 + into

    def fits(later: float) -> bool:
        at, rolled = now + later, int((now + later) // 60 - now // 60)
        state = [(previous, current), (current, 0), (0, 0)][min(rolled, 2)]
        return window.used(*state, at) + cost <= limit

    wait = window.wait_s(limit, cost, previous, current, now)
    assert fits(wait + 0.001)
    if wait > 1 and not fits(0):
        assert not fits(wait - 1) or previous * 1 / 60 < 1 or current * 1 / 60 < 1


def test_durations_are_spelled_as_openai_does() -> None:
    assert [spelled(s) for s in (0, 0.02, 1, 59.6, 61, 360)] == ["0ms", "20ms", "1s", "1m0s", "1m1s", "6m0s"]


async def test_a_server_that_is_gone_leaves_each_worker_to_count_by_itself(clock: Clock) -> None:
    gone = SharedLedger("redis://127.0.0.1:1")
    with pytest.raises(LedgerGone):
        await gone.add({"x": 1})
    metrics = Metrics()
    one = Limiter(lambda: {KEY: Limits(requests_per_minute=2, streams=9)}, lambda _: 0, gone, metrics)
    began = time.monotonic()
    held = [await asks(one, 1, KEY) for _ in range(2)]
    await refused(one, 1, KEY)
    for each in held:
        await one.settle(each, 1)
    assert time.monotonic() - began < 20, "it does not wait for the server again and again"
    assert b"sumika_limits_alone_total 1.0" in metrics.text()
    await gone.close()


async def test_two_workers_share_one_limit(valkey: str, clock: Clock) -> None:
    first, second = SharedLedger(valkey), SharedLedger(valkey)
    for key in await first._redis.keys("sumika*"):
        await first._redis.delete(key)
    known = Limits(requests_per_minute=3, streams=3)
    held = [await asks(limiter(ledger, key=known)) for ledger in (first, second, first)]
    await refused(limiter(second, key=known))
    assert len(held) == 3
    for each in (first, second):
        await each.close()


async def test_places_of_a_worker_that_died_are_free_again(valkey: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "PLACE_S", 2)
    dead, living, late = SharedLedger(valkey), SharedLedger(valkey), SharedLedger(valkey)
    renewing = asyncio.create_task(living.run())
    assert await dead.take("a", {"lost": 1}) is None and await living.take("b", {"kept": 1}) is None
    assert await late.take("c", {"kept": 1, "lost": 1}) == "kept" and await late.take("d", {"lost": 1}) == "lost"
    await asyncio.sleep(3)
    assert await late.take("d", {"lost": 1}) is None
    assert await late.take("e", {"kept": 1}) == "kept", "a place is renewed for as long as its request runs"
    await living.leave("b", ["kept"])
    assert await late.take("e", {"kept": 1}) is None
    renewing.cancel()
    for each in (dead, living, late):
        await each.close()


def test_limits_are_set_changed_and_taken_away(store: Store) -> None:
    with store.write() as connection:
        limits.set_limits(connection, TEAM, {"requests_per_minute": 5, "weight": 3})
        assert limits.set_limits(connection, TEAM, {"weight": None, "priority": "batch"}) == Limits(5, priority="batch")
        limits.set_limits(connection, KEY, {"streams": 2})
        assert limits.list_all(connection) == {KEY: Limits(streams=2), TEAM: Limits(5, priority="batch")}
        limits.set_limits(connection, KEY, {"streams": None})
        limits.clear(connection, TEAM)
        assert limits.list_all(connection) == {}
        with pytest.raises(SumikaError, match="no limit for"):
            limits.clear(connection, TEAM)


@pytest.mark.parametrize(
    "changes",
    [{"streams": 0}, {"streams": -1}, {"streams": True}, {"streams": "3"}, {"weight": 101}, {"priority": "urgent"}, {"x": 1},
     {"tokens_per_month": 10**16}],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(store: Store, changes: dict[str, Any]) -> None:
    with store.write() as connection, pytest.raises(SumikaError) as told:
        limits.set_limits(connection, KEY, changes)
    assert told.value.code == "bad_limit"


@pytest.mark.parametrize(("kind", "name"), [("user", "x"), ("key", ""), ("team", "x" * 129), ("alias", "a\nb"), ("key", " x")])
def test_strange_subjects_are_refused(kind: str, name: str) -> None:
    with pytest.raises(SumikaError) as told:
        limits.check_subject(kind, name)
    assert told.value.code == "bad_subject"


async def test_a_workers_own_counters_are_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, now = MemoryLedger(), time.monotonic()
    monkeypatch.setattr("sumika.serving.limiting.memory.time.monotonic", lambda: now)
    await ledger.add({f"old{n}": 1 for n in range(100)} | {"kept": 1})
    for _ in range(3):
        now += 131
        assert await ledger.add({"kept": 1}) != [1]
    assert await ledger.read(["kept", "old1"]) == [4, 0]
    assert len(ledger._young) + len(ledger._old) <= 2


async def test_many_at_once_never_pass_a_budget(ledger: Ledger) -> None:
    one = limiter(ledger, key=Limits(tokens_per_month=100, streams=50), team=Limits(streams=7))
    told = await asyncio.gather(*(one.reserve((KEY, TEAM), 20) for _ in range(30)), return_exceptions=True)
    held = [each for each in told if isinstance(each, Reservation)]
    assert len(held) == 5
    for each in held:
        await one.settle(each, 20)
    for _ in range(7):  # what was refused holds neither tokens nor places
        await asks(one, 10, KEY, TEAM)
