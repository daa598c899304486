"""The gateway's recorder: nothing on the requests' path, bounds, and what happens when the log can't be written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sumika.models.actor import Actor
from sumika.models.audit import Action, listing, sealing
from sumika.models.audit.chain import AuditRow, Entry
from sumika.models.audit.listing import Filter
from sumika.models.audit.sealing import Content
from sumika.models.audit.verify import verify
from sumika.models.audit.witness import Witness
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.settings import AuditSettings
from sumika.models.store import Store
from sumika.serving import recording, refused
from sumika.serving.metrics import Metrics
from sumika.serving.recording import Exchange, Recorder


def exchange(number: int = 0, content: tuple[bytes, list[bytes]] | None = None) -> Exchange:
    details = {"request": f"req-{number}", "status": 200}
    return Exchange(Entry(Action.INFERENCE_CHAT, "faq", details=details, actor=Actor("key-1", "app")), content)


@asynccontextmanager
async def running(store: Store, home: Home, policy: str = "metadata", key: Path | None = None) -> AsyncIterator[Recorder]:
    recorder = Recorder(store, Witness(home), AuditSettings(inference=policy, content_key=key), Metrics())
    task = asyncio.create_task(recorder.run())
    yield recorder
    recorder.close()
    await task


def rows(store: Store) -> list[AuditRow]:
    with store.read() as connection:
        return listing.find(connection, Filter(), 100_000)[::-1]


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "FLUSH_S", 0.01)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    sealing.keygen(tmp_path / "k")
    return tmp_path / "k.pub"


async def until(true: Any) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("policy", "gaps"), [("none", 0), ("metadata", 1)])
async def test_requests_that_were_lost_are_one_row_where_requests_are_told(
    store: Store, home: Home, policy: str, gaps: int
) -> None:
    async with running(store, home, policy) as recorder:
        for _ in range(3):
            recorder.lose()
    told = [row for row in rows(store) if row.action == "audit.gap"]
    assert [(row.details, row.outcome) for row in told] == [({"rows": 3}, "failed")] * gaps
    assert f"sumika_audit_lost_total {3.0 * gaps}" in recorder._metrics.text().decode()


@pytest.mark.usefixtures("_quick")
async def test_with_contents_nothing_is_answered_that_can_not_be_kept(
    store: Store, home: Home, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, away = recording.chain.append_many, True

    def write(*given: Any) -> int:
        if away:
            raise SumikaError("store_unavailable", "away", "away", status=503)
        return real(*given)

    monkeypatch.setattr(recording.chain, "append_many", write)
    async with running(store, home, "content", key) as recorder:
        recorder.note(exchange(1, (b"asked", [b"answered"])), admitted=recorder.admit())
        await until(lambda: recorder._failing)
        with pytest.raises(SumikaError) as told:
            recorder.admit()
        assert (told.value.code, told.value.status, told.value.retry_after) == ("audit_unavailable", 503, 5)
        away = False
        await until(lambda: rows(store) and not recorder._failing)
        assert recorder.admit()
        recorder.note(exchange(2, (b"again", [])), admitted=True)
    assert [row.details["request"] for row in rows(store)] == ["req-1", "req-2"]


async def test_room_for_contents_is_set_aside_before_the_answer(
    store: Store, home: Home, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "MOST_WAITING", 4)
    async with running(store, home, "content", key) as recorder:
        admitted = [recorder.admit() for _ in range(4)]
        with pytest.raises(SumikaError):
            recorder.admit()
        recorder.note(exchange(9), admitted=False)  # the one that was refused: counted, as there is no room
        for number, one in enumerate(admitted):
            recorder.note(exchange(number, (b"q", [b"a"])), admitted=one)
    assert [row.action for row in rows(store)].count("audit.gap") == 1
    assert verify(store, home).contents == 4


async def test_bytes_of_contents_that_wait_are_bounded(
    store: Store, home: Home, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "MOST_WAITING_BYTES", 1000)
    async with running(store, home, "content", key) as recorder:
        recorder.note(exchange(1, (b"q" * 500, [b"a" * 300] * 2)), admitted=recorder.admit())
        with pytest.raises(SumikaError):
            recorder.admit()
        await until(lambda: rows(store) and not recorder._waiting)
        recorder.note(exchange(2), admitted=recorder.admit())


async def test_content_is_sealed_and_opens_elsewhere(store: Store, home: Home, key: Path) -> None:
    asked, answered = '{"messages":[{"role":"user","content":"給与はいつ"}]}', "data: 毎月25日"
    pieces = answered.encode()
    async with running(store, home, "content", key) as recorder:
        recorder.note(exchange(1, (asked.encode(), [pieces[:8], pieces[8:]])), admitted=recorder.admit())
    with store.read() as connection:
        row, blob = listing.sealed(connection, 1)
    assert row.details["key"] == sealing.fingerprint(sealing.public_key(key))
    assert sealing.unseal(sealing.private_key(key.with_suffix("")), "req-1", blob) == Content(asked, answered)
    for file in home.root.rglob("*"):
        if file.is_file():
            assert "給与".encode() not in file.read_bytes() and b"\\u7d66" not in file.read_bytes()


async def test_flood_of_refusals_is_a_few_rows(store: Store, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    minute = "2026-11-23T09:00Z"
    monkeypatch.setattr(refused, "_minute", lambda: minute)
    async with running(store, home) as recorder:
        for number in range(50_000):
            recorder.refused.count({"client": (f"10.0.{number % 200}.1", 1), "state": {}}, 401)
        for _ in range(7):
            recorder.refused.count({"client": ("10.0.0.1", 1), "state": {}}, 403)
    told = rows(store)
    assert len(told) <= 2 * refused.MOST and sum(row.details["count"] for row in told) == 50_007
    assert {row.details["minute"] for row in told} == {minute}
    first = next(row for row in told if row.actor == "peer:10.0.0.1")
    assert (first.action, first.outcome, first.details) == (
        "auth.refused",
        "refused",
        {"count": 250, "minute": minute, "status": 401},
    )
    assert json.dumps([row.details for row in told if row.actor == "peer:others"])


async def test_refusals_are_told_when_their_minute_is_over(store: Store, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "FLUSH_S", 0.01)
    minute = "2026-11-23T09:00Z"
    monkeypatch.setattr(refused, "_minute", lambda: minute)
    async with running(store, home) as recorder:
        recorder.refused.count({"state": {}}, 401)
        await asyncio.sleep(0.1)
        assert rows(store) == []
        minute = "2026-11-23T09:01Z"
        await until(lambda: rows(store))
        assert rows(store)[0].actor == "peer:unknown"
