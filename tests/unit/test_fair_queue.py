"""The order in which requests wait for a full engine."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from sumika.models.errors import SumikaError
from sumika.models.limits import Limits, Priority
from sumika.models.principals import Principal
from sumika.serving import turns
from sumika.serving.fair_queue import FairQueue, Turn, Waiter


def waiter(team: str = "a", key: str = "k", priority: Priority = "interactive", cost: float = 10, weight: int = 1) -> Waiter:
    return Waiter(Turn(priority, team, key, cost, team_weight=weight), asyncio.Future(loop=LOOP), lambda: (True, None))


LOOP = asyncio.new_event_loop()


def order(queue: FairQueue, number: int | None = None) -> list[Turn]:
    popped = []
    while (number is None or len(popped) < number) and (one := queue.pop(lambda _: True)) is not None:
        popped.append(one.turn)
    return popped


def filled(*waiters: Waiter, most: int = 10_000) -> FairQueue:
    queue = FairQueue(most)
    for one in waiters:
        assert queue.push(one) is None
    return queue


def test_one_key_is_served_in_the_order_it_came() -> None:
    ones = [waiter(cost=n + 1) for n in range(5)]
    assert [t.cost for t in order(filled(*ones))] == [1, 2, 3, 4, 5]


def test_another_team_need_not_wait_behind_500() -> None:
    queue = filled(*(waiter("a") for _ in range(500)))
    order(queue, 100)
    queue.push(waiter("b"))
    assert "b" in [t.team for t in order(queue, 2)]


def test_interactive_goes_before_batch_whoever_asks() -> None:
    queue = filled(*(waiter("a", priority="batch") for _ in range(9)), waiter("a"), waiter("b"))
    assert [t.priority for t in order(queue)] == ["interactive"] * 2 + ["batch"] * 9


def test_teams_get_shares_by_weight_and_cost() -> None:
    queue = filled(*(waiter("a", weight=3) for _ in range(400)), *(waiter("b") for _ in range(400)), *(waiter("c", cost=20) for _ in range(400)))  # fmt: skip
    told = Counter(t.team for t in order(queue, 450))
    assert abs(told["a"] - 300) <= 2 and abs(told["b"] - 100) <= 2 and abs(told["c"] - 50) <= 2


def test_keys_of_a_team_share_what_the_team_gets() -> None:
    queue = filled(*(waiter("a", "k1") for _ in range(100)), *(waiter("a", "k2") for _ in range(3)), *(waiter("b") for _ in range(50)))  # fmt: skip
    first = order(queue, 12)
    assert Counter((t.team, t.key) for t in first) == {("a", "k1"): 3, ("a", "k2"): 3, ("b", "k"): 6}


def test_who_was_away_saves_up_no_turns() -> None:
    queue = filled(*(waiter("a") for _ in range(100)))
    order(queue, 60)
    for _ in range(30):
        queue.push(waiter("b"))
    assert 9 <= Counter(t.team for t in order(queue, 20))["b"] <= 11


def test_who_fits_not_lets_others_go_first_and_keeps_its_place() -> None:
    queue = filled(waiter("a", cost=1), waiter("a", cost=2), waiter("b", cost=3))
    assert queue.pop(lambda w: w.turn.team == "b") is not None
    assert queue.pop(lambda w: w.turn.cost == 2) is None, "only the oldest of a key is asked"
    assert [t.cost for t in order(queue)] == [1, 2]


def test_a_full_queue_gives_up_what_it_has_most_of() -> None:
    batch = [waiter("a", priority="batch") for _ in range(3)]
    queue = filled(*batch, *(waiter("b", priority="batch") for _ in range(1)), most=4)
    again = waiter("a", priority="batch")
    assert queue.push(again) is again, "who has most waiting gets no more"
    assert queue.push(waiter("b", priority="batch")) is batch[2]
    assert queue.push(waiter("c")) is not None and len(queue) == 4
    for _ in range(3):
        queue.push(waiter("c"))
    assert {t.team for t in order(queue)} == {"c"}
    alone = FairQueue(0)
    one = waiter()
    assert alone.push(one) is one and not len(alone)


def test_any_order_of_coming_and_leaving_keeps_the_count() -> None:
    draw = random.Random(1)
    queue, inside = FairQueue(40), set[Waiter]()
    for _ in range(5_000):
        if draw.random() < 0.6:
            one = waiter(draw.choice("abc"), draw.choice("xy"), draw.choice(["interactive", "batch"]), draw.randint(1, 50))
            gone = queue.push(one)
            inside.add(one)
            inside.discard(gone) if gone else None
        elif draw.random() < 0.5 and inside:
            queue.discard(gone := draw.choice(sorted(inside, key=id)))
            inside.discard(gone)
        elif (served := queue.pop(lambda _: draw.random() < 0.8)) is not None:
            inside.remove(served)
        assert len(queue) == len(inside) <= 40
    assert len(order(queue)) == len(inside)


def principal(team: str | None = None) -> Principal:
    return Principal("k1", "bot", "app", team, team_id=team and f"team-{team}")


def test_nobody_is_more_urgent_than_they_may_be() -> None:
    known = {("key", "k1"): Limits(priority="batch", weight=2), ("team", "hr"): Limits(weight=5)}
    assert turns.turn({}, principal(), "interactive", 1).priority == "interactive"
    assert turns.turn({}, principal(), "batch", 1).priority == "batch"
    assert turns.turn(known, principal("hr"), "interactive", 1) == Turn("batch", "team-hr", "k1", 1, 5, 2)  # type: ignore[arg-type]
    assert turns.turn({("team", "hr"): Limits(priority="batch")}, principal("hr"), "interactive", 1).priority == "batch"


def test_the_header_is_one_of_two_words() -> None:
    assert turns.asked([]) == "interactive" and turns.asked([(b"x-sumika-priority", b" Batch ")]) == "batch"
    for wrong in (b"", b"urgent", b"-1", b"\xff"):
        with pytest.raises(SumikaError) as told:
            turns.asked([(b"x-sumika-priority", wrong)])
        assert told.value.code == "invalid_priority" and told.value.status == 400
