"""The answer to a key that is none takes the same time whyever it is none: Welch's t stays under 4.5 over 100,000 checks.

As dudect does it (Reparaz, Balasch, Verbauwhede 2017): classes in random turn, times above a percentile cropped (they are the
machine's and not the code's), t between the classes. A check that takes short cuts is measured the same way and fails.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from math import sqrt

import pytest

from sumika.models import keys
from sumika.models.store import Store
from sumika.serving import known_keys

CHECKS = 100_000
LIMIT = 4.5
# A machine that does something else for a while gives one bad measurement, not five.
TRIES = 5
# Keys of each kind: with few, the one place that each has in memory would show.
EACH = 400


def welch(first: Sequence[float], second: Sequence[float]) -> float:
    """|t| of two samples (seconds) with unequal variances."""
    error = sqrt(statistics.variance(first) / len(first) + statistics.variance(second) / len(second))
    return abs(statistics.fmean(first) - statistics.fmean(second)) / error


def measured(check: Callable[[str], object], classes: Sequence[Sequence[str]], checks: int) -> float:
    """The largest t between any two classes of secrets, by the mean time of each secret, of `checks` measurements in all.

    A secret's own place among the known ones costs it a few nanoseconds more or less, each time the same: it is the secrets
    that are drawn at random, so it is over them that the means are compared.
    """
    secrets = [(kind, secret) for kind, one in enumerate(classes) for secret in one]
    times: list[list[int]] = [[] for _ in secrets]
    gc.collect()
    gc.disable()
    try:
        for _ in range(checks // len(secrets)):
            order = list(enumerate(secrets))
            random.shuffle(order)
            for number, (_, secret) in order:
                began = time.perf_counter_ns()
                check(secret)
                times[number].append(time.perf_counter_ns() - began)
    finally:
        gc.enable()
    limit = statistics.quantiles([t for one in times for t in one], n=100)[89]
    means: list[list[float]] = [[] for _ in classes]
    for (kind, _), taken in zip(secrets, times, strict=True):
        means[kind].append(statistics.fmean([t for t in taken if t <= limit]))
    return max(welch(a, b) for number, a in enumerate(means) for b in means[:number])


@pytest.fixture
def classes(store: Store) -> tuple[known_keys.KnownKeys, list[list[str]]]:
    """What the worker knows an hour from now; and secrets that are unknown, revoked or expired."""
    made: dict[str, list[str]] = {"good": [], "revoked": [], "expired": []}
    with store.write() as connection:
        for state, secrets in made.items():
            for number in range(EACH):
                soon = datetime.now(UTC) + timedelta(seconds=30) if state == "expired" else None
                secret, key = keys.create(connection, f"{state}-{number}", expires_at=soon)
                secrets.append(secret)
                if state == "revoked":
                    keys.revoke(connection, key.id)
        known = known_keys.known(keys.list_all(connection), datetime.now(UTC) + timedelta(hours=1))
    unknown = [keys._secret()[0] for _ in range(EACH)]
    assert len(known) == EACH
    return known, [unknown, made["revoked"], made["expired"]]


def test_key_that_is_none_is_told_in_the_same_time_whyever(classes: tuple[known_keys.KnownKeys, list[list[str]]]) -> None:
    known, secrets = classes
    later = time.time() + 3600
    assert all(known_keys.identify(one, known, later) is None for kind in secrets for one in kind)
    told = []
    for _ in range(TRIES):
        told.append(measured(lambda secret: known_keys.identify(secret, known, later), secrets, CHECKS))
        if told[-1] < LIMIT:
            return
    pytest.fail(f"Welch's t of {TRIES} measurements: {told}")


def test_measurement_finds_a_check_that_leaks(classes: tuple[known_keys.KnownKeys, list[list[str]]]) -> None:
    known, (unknown, *_) = classes
    misspelt = [secret[:-1] + ("1" if secret[-1] == "0" else "0") for secret in unknown]
    later = time.time() + 3600

    def leaky(secret: str) -> object:
        """Stops at the first thing that is wrong, as one would write it."""
        if not keys.well_formed(secret):
            return None
        key = known.get(keys.digest(secret))
        return key.principal if key and key.until > later else None

    assert measured(leaky, [unknown, misspelt], CHECKS // 5) > LIMIT
