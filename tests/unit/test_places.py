"""Places by owner, and patterns that would take for ever."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from sumika.finetune.data.record import Conversation, Row
from sumika.finetune.evaluation.checks import right
from sumika.serving.places import Full, Places


def test_one_owner_takes_no_more_than_its_share_and_others_get_in() -> None:
    places = Places(4, 2)
    with ExitStack() as held:
        for owner in ("a", "a", "b", "b"):
            held.enter_context(places.hold(owner))
        with pytest.raises(Full) as own, places.hold("a"):
            pass
        assert own.value.own
        held.enter_context(places.hold("c"))  # all are taken, but c has none yet
        with pytest.raises(Full) as all_taken, places.hold("c"):
            pass
        assert not all_taken.value.own
        for owner in "def":
            held.enter_context(places.hold(owner))
        with pytest.raises(Full), places.hold("g"):
            pass
    with places.hold("g"), places.hold("g"):
        pass


def row(answer: str) -> Row[Conversation]:
    return Row(Conversation([{"role": "user", "content": "q"}, {"role": "assistant", "content": answer}]), "x:1", "h", ())


def test_pattern_that_would_take_for_ever_is_not_found() -> None:
    assert right("regex", "a" * 40 + "!", row(r"(a+)+$")) is False
    assert right("regex", "答えは４２です", row(r"\d\d"))
