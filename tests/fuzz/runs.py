"""How often, and with which seed: both can be set from outside, and a failure tells the smallest request that shows it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis.strategies import SearchStrategy

_Case = TypeVar("_Case")

# Of all the requests together: in `make test`, and of `make soak` where the environment says so.
_USUAL = 3_000
TOTAL = int(os.environ.get("SUMIKA_TEST_FUZZ_REQUESTS", _USUAL))
SEED = int(os.environ.get("SUMIKA_TEST_FUZZ_SEED", 20_261_123))
# Hypothesis remembers what it has tried; longer runs are cut into several.
_AT_ONCE = 2_000


def share(part: float) -> int:
    """A part of all the requests."""
    return max(1, round(TOTAL * part))


def tried(strategy: SearchStrategy[_Case], count: int, check: Callable[[_Case], None], *, shrinks: bool = True) -> None:
    """`check` of `count` cases. `shrinks`: look for the smallest that fails; not where each takes long and tells itself what failed."""
    for number, begun in enumerate(range(0, count, _AT_ONCE)):

        @hypothesis.seed(SEED + number)
        @hypothesis.settings(
            max_examples=min(_AT_ONCE, count - begun), database=None, deadline=None, suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink] if shrinks else [Phase.generate], print_blob=False,
        )  # fmt: skip
        @hypothesis.given(strategy)
        def each(case: _Case) -> None:
            check(case)

        each()
