"""What an answer that was cut off is charged, case by case."""

from __future__ import annotations

import time
from typing import Any

import pytest

from sumika.serving import dialects, request_record
from sumika.serving.request_record import CLIENT_CLOSED, RequestRecord, Work
from sumika.serving.throughput import Throughput
from sumika.serving.usage_events import BodyCount, NoCount, StreamCount

EVENT = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'


def record(
    *, streams: bool, seconds: float, events: int = 0, silent: float = 0, choices: int = 1, most: int | None = 1_000, **told: Any
) -> RequestRecord:
    now = time.monotonic()
    made = RequestRecord("req-1", began=now - seconds, prompt_estimate=9, **told)
    made.work = Work(1, choices, 1_000 if most is None else most, most, streams, now - seconds, Throughput())
    if events:
        made.count = StreamCount(dialects.OPENAI.usage, shows_usage=False)
        made.count.feed(EVENT * events)
        made.first_byte, made.passed_at = now - seconds, now - silent
    made.end()
    return made


@pytest.mark.parametrize(
    ("cut", "completion"),
    [
        # The client left a stream: events; what it did not read; what never came. 100 tokens a second are not known better.
        (record(streams=True, seconds=9, events=40, status=CLIENT_CLOSED), 40),
        (record(streams=True, seconds=9, events=40, silent=4, status=CLIENT_CLOSED), 340),
        (record(streams=True, seconds=9, events=40, silent=9, choices=8, most=2_000, status=CLIENT_CLOSED), 2_000),
        (record(streams=True, seconds=0.5, status=CLIENT_CLOSED), 0),
        (record(streams=True, seconds=4, choices=2, status=CLIENT_CLOSED), 600),
        # An engine died, or fell silent: what had passed.
        (record(streams=True, seconds=9, events=40, silent=9, status=503, code="engine_unreachable"), 40),
        # In one piece.
        (record(streams=False, seconds=0.1, status=CLIENT_CLOSED), 250),
        (record(streams=False, seconds=3, choices=2, status=CLIENT_CLOSED), 600),
        (record(streams=False, seconds=300, choices=2, status=CLIENT_CLOSED), 1_000),
        (record(streams=False, seconds=3, status=504, code="engine_timeout"), 300),
        # More than was reserved, where the client named no bound.
        (record(streams=True, seconds=90, events=5_000, most=None, status=CLIENT_CLOSED), 5_000),
        (record(streams=True, seconds=90, events=5_000, most=4_096, status=CLIENT_CLOSED), 4_096),
        (record(streams=False, seconds=50, most=None, status=CLIENT_CLOSED), 5_000),
        (record(streams=False, seconds=0.1, most=None, status=CLIENT_CLOSED), 250),
    ],
)  # fmt: skip
def test_cut_off_answers_cost_what_they_took(cut: RequestRecord, completion: int) -> None:
    row = cut.usage("chat")
    assert row.partial and row.estimated and row.prompt_tokens == 9
    assert row.completion_tokens is not None and abs(row.completion_tokens - completion) <= 3


def test_engine_that_dies_before_any_answer_costs_nothing() -> None:
    row = record(streams=False, seconds=3, status=503, code="engine_unreachable").usage("chat")
    assert (row.partial, row.tokens) == (False, 0)


def test_what_no_model_works_for_costs_nothing() -> None:
    cut = record(streams=False, seconds=3, most=0, status=CLIENT_CLOSED)
    cut.count = NoCount()
    cut.end()
    assert cut.usage("tokenize").tokens == 0


@pytest.mark.parametrize(("waited", "learnt"), [(0.0, 20), (5.0, 100)])
def test_client_that_reads_slowly_does_not_make_its_base_look_slow(waited: float, learnt: int) -> None:
    whole = record(streams=False, seconds=10, status=200)
    whole.count = BodyCount()
    whole.count.feed(b'{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":200}}')
    whole.first_byte, whole.waited_s = whole.began, waited
    whole.end()
    assert not whole.partial and whole.work is not None
    assert whole.work.throughput.tokens(1, 1.0, 1) == learnt


def test_row_of_a_request_that_is_open() -> None:
    row = record(streams=True, seconds=9, events=40, silent=8).interrupted("chat")
    assert (row.status, row.code, row.partial, row.completion_tokens) == (500, request_record.INTERRUPTED, True, 40)
