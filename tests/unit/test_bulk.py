"""The parts of bulk work by themselves: forms and lines in every cut, journals that were cut short, and the pace."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sumika.models.errors import SumikaError
from sumika.models.shelf import Shelf
from sumika.serving.bulk import form, outcome
from sumika.serving.bulk.asking import Reply
from sumika.serving.bulk.form import Form
from sumika.serving.bulk.jsonl import LineCheck
from sumika.serving.bulk.lines import Lines
from sumika.serving.bulk.pace import Pace
from sumika.serving.bulk.results import Results
from sumika.serving.threads import to_end
from sumika.serving.usage_events import Tokens

FILE = '{"a": "日本語𠮷"}\r\n--xy\n{"b": 1}\n'.encode() * 3
FORM = (
    b'--xyz\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\nContent-Type: x/y\r\n\r\n'
    + FILE
    + b"\r\n--xyz--\r\n"
)


@given(cuts=st.lists(st.integers(0, len(FORM)), max_size=20))
def test_form_is_the_same_however_it_comes(cuts: list[int]) -> None:
    got = bytearray()
    made = Form(b"xyz", got.extend)
    places = [0, *sorted(cuts), len(FORM)]
    for a, b in itertools.pairwise(places):
        made.feed(FORM[a:b])
    made.end()
    assert bytes(got) == FILE and made.fields == {"purpose": "batch"} and made.filename == "a.jsonl"


@settings(max_examples=300)
@given(noise=st.binary(max_size=200), at=st.integers(0, len(FORM)), drop=st.integers(0, 50))
def test_broken_form_is_refused_and_never_a_fault(noise: bytes, at: int, drop: int) -> None:
    made = Form(b"xyz", lambda data: None)
    try:
        made.feed(FORM[:at] + noise + FORM[at + drop :])
        made.end()
    except SumikaError as error:
        assert error.status == 400


@given(text=st.text(max_size=50), cuts=st.lists(st.integers(0, 200), max_size=8))
def test_utf8_is_utf8_however_it_comes(text: str, cuts: list[int]) -> None:
    data = ("x" + text.replace("\0", "")).encode()
    check = LineCheck(10_000)
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for a, b in itertools.pairwise(places):
        check.feed(data[a:b])
    check.end()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_line_that_is_no_utf8_is_named_however_it_comes(size: int) -> None:
    data = '{"a": "日本"}\n{"a": "本"}\n'.encode() + '{"a": "語"}\n'.encode("cp932")
    check = LineCheck(1000)
    with pytest.raises(SumikaError, match="Line 3"):
        for at in range(0, len(data), size):
            check.feed(data[at : at + size])
        check.end()


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_long_line_is_named_however_it_comes(size: int) -> None:
    data, check = b"a\n" * 5 + b"b" * 30 + b"\n", LineCheck(20)
    with pytest.raises(SumikaError, match="Line 6"):
        for at in range(0, len(data), size):
            check.feed(data[at : at + size])


@pytest.mark.parametrize(
    "kind", [b"", b"text/plain", b"multipart/form-data", b"multipart/form-data; boundary=", b"multipart/form-data; boundary=" + b"x" * 71]
)  # fmt: skip
def test_request_that_is_no_form_is_refused(kind: bytes) -> None:
    with pytest.raises(SumikaError):
        form.boundary([(b"content-type", kind)])
    with pytest.raises(SumikaError):
        form.boundary([(b"content-type", b"multipart/form-data; boundary=a"), (b"content-encoding", b"gzip")])


def test_journal_forgets_what_a_kill_or_a_power_cut_left_broken(tmp_path: Path) -> None:
    first = Results(tmp_path / "b", "0001")
    for index in range(5):
        first.append(index, index != 3, Tokens(10, 2, None, 1), b'{"n": %d}' % index)
    first.append(2, True, Tokens(10, 2), b"again")
    assert (len(first), first.failed, first.tokens) == (5, 1, Tokens(50, 10, 0, 5))
    first.sync()
    first.close()
    path = tmp_path / "b" / "0001.journal"
    whole = path.read_bytes()
    for cut, left in ((len(whole) - 1, 4), (len(whole) - 10, 4), (len(whole) // 2, 2), (3, 0)):
        path.write_bytes(whole[:cut])
        again = Results(tmp_path / "b", "0002")
        assert len(again) == left
        again.close()
    path.write_bytes(whole.replace(b'{"n": 1}', b'{"n": 9}'))
    again = Results(tmp_path / "b", "0002")
    assert len(again) == 1, "what lies behind a damaged record is not believed"
    again.append(4, True, Tokens(), b"new")
    assert again.line(4) == (True, b"new") and again.line(0) == (True, b'{"n": 0}')
    again.remove()
    assert not (tmp_path / "b").exists()


async def test_answers_kept_from_many_threads_are_each_where_they_belong(tmp_path: Path) -> None:
    kept = Results(tmp_path / "b", "0001")
    await asyncio.gather(*(asyncio.to_thread(kept.append, n, True, Tokens(1, 1), b"x" * n) for n in range(300)))
    assert [kept.line(n) for n in range(300)] == [(True, b"x" * n) for n in range(300)] and kept.tokens == Tokens(300, 300, 0, 0)
    kept.close()


def test_journal_that_can_not_be_written_keeps_what_it_had(tmp_path: Path) -> None:
    import resource
    import signal

    kept = Results(tmp_path / "b", "0001")
    kept.append(0, True, Tokens(), b"first")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        with pytest.raises(OSError):
            kept.append(1, True, Tokens(), b"x" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    kept.append(1, True, Tokens(), b"second")
    assert kept.line(0) == (True, b"first") and kept.line(1) == (True, b"second")
    kept.close()


def test_full_disk_leaves_nothing_on_the_shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sumika.models.shelf.RESERVE_BYTES", 2**62)
    draft = Shelf(tmp_path).begin()
    with pytest.raises(SumikaError) as told:
        draft.write(b"x")
    draft.discard()
    assert told.value.status == 507 and not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_shelf_sweeps_what_nobody_names(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    for name in ("file-a", "file-b"):
        draft = shelf.begin()
        draft.write(name.encode())
        draft.settle(name)
    left = shelf.begin()
    for path in tmp_path.rglob("*"):
        os.utime(path, (1, 1))
    fresh = shelf.begin()
    assert shelf.sweep({"file-a"}, 3600) == 2
    assert shelf.path("file-a").exists() and not shelf.path("file-b").exists()
    left.discard()
    fresh.settle("file-c")
    assert shelf.path("file-c").exists()


def test_pace_halves_without_room_and_grows_with_answers() -> None:
    now = [0.0]
    pace = Pace(8, lambda: now[0])
    assert pace.most == 8
    pace.no_room(0)
    pace.no_room(0)  # of the same moment
    assert pace.most == 0 and pace.pause_s == 1
    now[0] = 1.5
    assert pace.most == 4
    waits = []
    for _ in range(9):
        pace.no_room(0)
        waits.append(pace.pause_s)
        now[0] += pace.pause_s + 0.125
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60, 60] and pace.most == 1
    pace.no_room(3600)
    assert pace.pause_s == 60
    now[0] += 61
    for _ in range(20):
        pace.went_well()
    assert pace.most == 8
    pace.no_room(0)
    assert pace.pause_s == 1


def test_answer_of_several_lines_stands_on_one() -> None:
    reply = Reply("req-1", 200, {}, b'{"usage": {"prompt_tokens": 3,\r\n "completion_tokens": 2},\n "text": "a\\nb"}', True)
    ok, tokens, line = outcome.answered("番号\n1", reply)
    told = json.loads(line)
    assert ok and b"\n" not in line and tokens == Tokens(3, 2) and told["custom_id"] == "番号\n1"
    assert told["response"]["body"]["text"] == "a\nb"


async def test_lines_are_read_again_as_they_were_checked(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    rows = [
        {"custom_id": f"番号{n}", "method": "POST", "url": "/v1/completions", "body": {"prompt": "𠮷" * n}} for n in range(50)
    ]
    path.write_text("\n\n".join(json.dumps(row, ensure_ascii=n % 2 == 0) for n, row in enumerate(rows)), encoding="utf-8")
    lines = Lines(path, "/v1/completions", 1000)
    assert await lines.check("en") == [] and len(lines) == 50
    for n in range(50):
        line = lines.read(n)
        assert (line.custom_id, json.loads(line.body)) == (f"番号{n}", {"prompt": "𠮷" * n})
    lines.close()
    short = Lines(path, "/v1/completions", 100)
    errors = await short.check("en")
    assert {error["code"] for error in errors} == {"line_too_long"} and 0 < len(errors) < 50
    short.close()


async def test_cancelled_work_in_a_thread_is_waited_for() -> None:
    begun, go, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go.wait(5)
        done.set()

    task = asyncio.create_task(to_end(work))
    await asyncio.to_thread(begun.wait, 5)
    task.cancel()
    await asyncio.sleep(0.05)
    assert not task.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done.is_set()
