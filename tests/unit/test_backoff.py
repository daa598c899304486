"""What crashes in a loop is started less and less often; what had lived is started at once."""

from __future__ import annotations

from sumika.serving.backoff import Backoff


def test_pause_grows_to_its_bound_while_it_dies_young() -> None:
    backoff = Backoff(1, 30, 20)
    assert [backoff.ended(3) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert Backoff(1, 60, 30, restarts=10_000).ended(0) == 60


def test_what_had_lived_a_while_is_started_again_at_once_every_time() -> None:
    backoff = Backoff(1, 30, 20)
    for _ in range(5):
        backoff.ended(0)
    assert [backoff.ended(lived) for lived in (21, 300, 0, 0, 25)] == [1, 1, 2, 4, 1]
