"""Usage: tokens taken from the end of answers, the journal that survives a kill, the table that counts each request once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from sumika.models import schema
from sumika.models.store import Store
from sumika.models.usage import drain, journal, table
from sumika.models.usage.rows import UsageRow
from sumika.serving import dialects
from sumika.serving.throughput import Throughput
from sumika.serving.usage_events import BodyCount, StreamCount, Tokens

USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}}
FORGED = '"choices":[],"usage":{"prompt_tokens":999,"completion_tokens":999}'


def event(**more: Any) -> bytes:
    body = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m@1"} | more
    return b"data: " + json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"


WORDS = [event(choices=[{"index": 0, "delta": {"content": word}}]) for word in ("住処", FORGED, "\n\n")]
LAST = event(choices=[], usage=USAGE)
DONE = b"data: [DONE]\n\n"
STREAM = b"".join(WORDS) + LAST + DONE


@pytest.mark.parametrize("shows_usage", [True, False])
def test_stream_is_counted_wherever_it_is_cut(shows_usage: bool) -> None:
    wanted = STREAM if shows_usage else STREAM.replace(LAST, b"")
    for size in (1, 2, 3, 7, 50, 111, len(STREAM) - 3, len(STREAM)):
        count = StreamCount(dialects.OPENAI.usage, shows_usage=shows_usage)
        passed = [count.feed(STREAM[at : at + size]) for at in range(0, len(STREAM), size)]
        assert b"".join(passed) == wanted
        assert all(piece.endswith(b"\n\n") for piece in passed if piece), "only whole events pass"
        assert count.tokens == Tokens(7, 2, cached=4)
        assert count.events == len(WORDS) + 1


def test_what_a_model_says_is_never_taken_for_usage() -> None:
    count = StreamCount(dialects.OPENAI.usage, shows_usage=False)
    assert count.feed(b"".join(WORDS)) == b"".join(WORDS)
    assert count.tokens is None and count.events == 3
    body = BodyCount()
    body.feed(json.dumps({"choices": [{"message": {"content": FORGED}}]}, separators=(",", ":")).encode())
    assert body.tokens is None


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_one_answer_is_counted_from_its_end(separators: tuple[str, str]) -> None:
    told = USAGE | {"completion_tokens_details": {"reasoning_tokens": 1}}
    raw = json.dumps({"choices": [FORGED * 300], "usage": told, "prompt_logprobs": None}, separators=separators).encode()
    for size in (1, 100, 5000, len(raw)):
        count = BodyCount()
        assert b"".join(count.feed(raw[at : at + size]) for at in range(0, len(raw), size)) == raw
        assert count.tokens == Tokens(7, 2, cached=4, reasoning=1)


@pytest.mark.parametrize(
    "broken", [b"", b'"usage":{', b'"usage":{"prompt_tokens":"x"}', b'"usage":{}', b'"usage":{"prompt_tokens":1}']
)
def test_usage_that_cannot_be_read_is_none(broken: bytes) -> None:
    count = BodyCount()
    count.feed(broken)
    assert count.tokens is None


def row(number: int, **more: Any) -> UsageRow:
    made = UsageRow(
        f"req-{number}",
        "2026-11-23T01:00:00.000000Z",
        "k1",
        "sales",
        "faq",
        "faq@1",
        "chat",
        200,
        "",
        False,
        7,
        4,
        2,
        None,
        12,
        34,
    )
    return made._replace(**more)


def in_table(store: Store) -> list[str]:
    with store.read() as connection:
        return sorted(connection.scalars(select(schema.usage.c.request)))


def test_rows_of_a_journal_are_read_back_as_they_were(tmp_path: Path) -> None:
    kept = journal.create(tmp_path, "w1")
    rows = [row(n, code="エラー", team=None) for n in range(5)]
    kept.append(rows[:2])
    kept.append(rows[2:])
    assert kept.read(0, 3)[0] == rows[:3]
    first, end = kept.read(0, 3)
    assert kept.read(end, 9)[0] == rows[3:] and first == rows[:3]
    kept.close(remove=False)


def test_a_journal_cut_anywhere_keeps_every_whole_row(tmp_path: Path) -> None:
    kept = journal.create(tmp_path, "w1")
    rows = [row(n) for n in range(3)]
    kept.append(rows)
    kept.close(remove=False)
    data = kept.path.read_bytes()
    for size in range(0, len(data), 5):
        kept.path.write_bytes(data[:size])
        (left,) = journal.abandoned(tmp_path)
        assert left.read(0, 9)[0] == rows[: data[:size].count(b"\n")]
        left.close(remove=False)


def test_a_damaged_line_costs_only_itself(tmp_path: Path) -> None:
    kept = journal.create(tmp_path, "w1")
    kept.append([row(n) for n in range(3)])
    kept.close(remove=False)
    lines = kept.path.read_bytes().splitlines(keepends=True)
    kept.path.write_bytes(lines[0] + lines[1].replace(b"k1", b"k2") + b"\n\x00\xff\n" + lines[2])
    (left,) = journal.abandoned(tmp_path)
    assert [r.request for r in left.read(0, 9)[0]] == ["req-0", "req-2"]
    left.close(remove=True)
    assert list(tmp_path.iterdir()) == []


def test_rows_are_counted_once_however_often_they_are_drained(store: Store, tmp_path: Path) -> None:
    kept = journal.create(tmp_path, "w1")
    kept.append([row(1), row(2), row(1), row(3, team=None, prompt_tokens=None, completion_tokens=None)])
    kept.close(remove=False)  # as a kill leaves it
    data = kept.path.read_bytes()
    assert drain.recover(store, tmp_path) == 3 and not kept.path.exists()
    kept.path.write_bytes(data)  # killed between the commit and the clearing
    assert drain.recover(store, tmp_path) == 0
    assert in_table(store) == ["req-1", "req-2", "req-3"]
    with store.read() as connection:
        totals = {(t.kind, t.name): (t.requests, t.tokens) for t in connection.execute(select(schema.usage_totals))}
        assert table.spent(connection, "2026-11")[("team", "sales")] == 18
    assert totals == {("key", "k1"): (3, 18), ("team", "sales"): (2, 18), ("alias", "faq"): (3, 18)}


def test_a_journal_that_is_written_is_nobody_elses(store: Store, tmp_path: Path) -> None:
    kept = journal.create(tmp_path, "w1")
    kept.append([row(1)])
    assert drain.recover(store, tmp_path) == 0 and in_table(store) == []
    kept.append([row(2)])
    kept.close(remove=False)
    assert drain.recover(store, tmp_path) == 2 and in_table(store) == ["req-1", "req-2"]


def test_more_rows_than_one_batch(store: Store, tmp_path: Path) -> None:
    kept = journal.create(tmp_path, "w1")
    kept.append([row(n) for n in range(4321)])
    assert drain.drain(store, kept) == 4321 and len(in_table(store)) == 4321
    kept.close(remove=True)


def test_a_full_disk_leaves_the_journal_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = journal.create(tmp_path, "w1")
    kept.append([row(1)])
    real = journal.os.write

    def short(fd: int, data: Any) -> int:
        if len(data) < 100:
            raise OSError(28, "No space left on device")
        return real(fd, bytes(data[: len(data) // 2]))

    with monkeypatch.context() as patched:
        patched.setattr(journal.os, "write", short)
        with pytest.raises(OSError):
            kept.append([row(2)])
    kept.append([row(3)])
    assert [r.request for r in kept.read(0, 9)[0]] == ["req-1", "req-3"]
    kept.close(remove=True)


def running(choice: int, completion: int, **more: Any) -> bytes:
    """As vLLM 0.32 spells it with `continuous_usage_stats`; the first event has fields behind its usage."""
    told = {"prompt_tokens": 7, "total_tokens": 7 + completion, "completion_tokens": completion}
    return event(choices=[{"index": choice, "delta": {"content": FORGED}}], usage=told, **more)


RUNNING = [running(0, 0, prompt_token_ids=None, prompt_text=None), running(0, 3), running(1, 2), running(0, 6), running(1, 9)]


@pytest.mark.parametrize("shows_usage", [True, False])
def test_running_counts_are_kept_by_choice_and_never_shown(shows_usage: bool) -> None:
    stream = b"".join(RUNNING) + LAST + DONE
    for size in (1, 5, 64, 200, len(stream)):
        count = StreamCount(dialects.OPENAI.usage, shows_usage=shows_usage, running=True)
        passed = b"".join(count.feed(stream[at : at + size]) for at in range(0, len(stream), size))
        assert passed.count(b'"usage":{') == shows_usage and passed.endswith(DONE)
        texts = [json.loads(line[6:])["choices"] for line in passed.split(b"\n\n")[: len(RUNNING)]]
        assert [choice[0]["delta"]["content"] for choice in texts] == [FORGED] * len(RUNNING)
        assert b'"prompt_token_ids":null,"prompt_text":null}' in passed, "what stands behind it stays"
        assert count.running == Tokens(7, 15) and count.tokens == Tokens(7, 2, cached=4)


def test_running_counts_are_those_of_a_stream_that_is_cut() -> None:
    count = StreamCount(dialects.OPENAI.usage, shows_usage=False, running=True)
    assert count.running is None
    count.feed(RUNNING[0] + RUNNING[1] + RUNNING[2][:-9])
    assert count.running == Tokens(7, 3) and count.tokens is None


def rows_after(store: Store, folder: Path) -> dict[str, str]:
    drain.recover(store, folder)
    with store.read() as connection:
        return {row.request: row.code for row in connection.execute(select(schema.usage))}


def test_killed_writer_leaves_a_row_of_each_open_request(store: Store, tmp_path: Path) -> None:
    kept = journal.create(tmp_path, "w1")
    kept.append_open([row(n, code="interrupted", partial=True, completion_tokens=1) for n in (1, 2, 3)])
    kept.append([row(1)])
    kept.append_open([row(2, code="interrupted", partial=True, estimated=True, completion_tokens=40)])
    kept.close(remove=False)
    assert rows_after(store, tmp_path) == {"req-1": "", "req-2": "interrupted", "req-3": "interrupted"}
    with store.read() as connection:
        found = {r.request: (r.completion_tokens, r.estimated) for r in connection.execute(select(schema.usage))}
        assert table.spent(connection, "2026-11")[("key", "k1")] == 9 + 47 + 8
    assert found == {"req-1": (2, False), "req-2": (40, True), "req-3": (1, False)}, "what was known last"


def test_sealed_journal_tells_of_nobody_who_is_open(store: Store, tmp_path: Path) -> None:
    older, newer = journal.create(tmp_path, "w1"), journal.create(tmp_path, "w2")
    older.append_open([row(1, code="interrupted")])
    older.append([row(2)])
    older.seal()
    older.close(remove=False)
    assert rows_after(store, tmp_path) == {"req-2": ""}
    newer.append_open([row(1, code="interrupted")])
    newer.append([row(1)])
    newer.close(remove=False)
    assert rows_after(store, tmp_path) == {"req-1": "", "req-2": ""}


def test_journal_killed_anywhere_counts_each_request_once(store: Store, tmp_path: Path) -> None:
    kept = journal.create(tmp_path, "w1")
    kept.append_open([row(1, code="interrupted"), row(2, code="interrupted")])
    kept.append([row(1), row(3)])
    kept.seal()
    kept.close(remove=False)
    data = kept.path.read_bytes()
    for size in range(0, len(data), 7):
        kept.path.write_bytes(data[:size])
        (left,) = journal.abandoned(tmp_path)
        ended = {r.request for r in left.read(0, 9)[0]}
        open_still = {r.request for r in left.interrupted()}
        assert not ended & open_still and (ended | open_still) <= {"req-1", "req-2", "req-3"}
        left.close(remove=False)


def test_rate_and_tokens_an_event_are_learnt_from_whole_answers() -> None:
    speeds = Throughput()
    assert speeds.tokens(1, 2.0, 3) == 600 and speeds.per_event(1) == 1
    speeds.learn(1, 4, 1, 1.0, 4)  # too short to tell
    assert speeds.tokens(1, 1.0, 1) == 100
    speeds.learn(1, 400, 2, 10.0, 0)
    assert speeds.tokens(1, 1.0, 1) == 20 and speeds.tokens(2, 1.0, 1) == 100
    for _ in range(100):
        speeds.learn(1, 400, 1, 10.0, 100)
    assert speeds.tokens(1, 1.0, 1) == 40 and 3.9 < speeds.per_event(1) <= 4
