"""A worker's counting when disk or database fail it, and what budgets see meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from sumika.models import clock, schema
from sumika.models.errors import SumikaError
from sumika.models.store import Store
from sumika.models.usage import drain
from sumika.models.usage.rows import UsageRow
from sumika.serving import metering
from sumika.serving.metering import Metering
from sumika.serving.metrics import Metrics


def row(number: int) -> UsageRow:
    return UsageRow(
        f"req-{number}", clock.now(), "k1", None, "faq", "faq@1", "chat", 200, "", False, 7, None, 3, None, 1, 2,
    )  # fmt: skip


def count(store: Store) -> int:
    with store.read() as connection:
        return connection.scalar(select(func.count()).select_from(schema.usage)) or 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "usage"
    made.mkdir()
    return made


async def until(true: Any, within_s: float = 5) -> None:
    async with asyncio.timeout(within_s):
        while not true():
            await asyncio.sleep(0.02)


async def test_budgets_see_each_row_once_on_its_way_to_the_table(store: Store, folder: Path) -> None:
    one = Metering(store, folder, "w1", Metrics(), lambda: drain.recover(store, folder))
    running = asyncio.create_task(one.run())
    for number in range(30):
        one.note(row(number))
        for _ in range(5):
            assert one.spent(("key", "k1")) >= 10 * (number + 1)
            await asyncio.sleep(0.02)
    await until(lambda: count(store) == 30 and one.spent(("key", "k1")) == 300)
    assert one.spent(("alias", "faq")) == 300 and one.spent(("team", "x")) == 0
    one.close()
    await running
    assert one.spent(("key", "k1")) == 300 and list(folder.iterdir()) == []


async def test_while_the_database_is_away_rows_wait_in_the_journal(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> int:
        raise SumikaError("store_unavailable", "away", "不在", status=503)

    one = Metering(store, folder, "w1", Metrics(), lambda: drain.recover(store, folder))
    running = asyncio.create_task(one.run())
    with monkeypatch.context() as patched:
        patched.setattr(drain, "drain", away)
        one.note(row(1))
        await asyncio.sleep(0.4)
        assert one.spent(("key", "k1")) == 10
        one.close()
        await running
    assert count(store) == 0 and len(list(folder.iterdir())) == 1
    assert drain.recover(store, folder) == 1 and list(folder.iterdir()) == []


async def test_while_the_disk_is_full_rows_wait_in_memory_and_the_last_ones_are_counted_as_lost(
    store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Any) -> None:
        raise OSError(28, "No space left on device")

    metrics = Metrics()
    monkeypatch.setattr(metering, "MOST_WAITING", 50)
    one = Metering(store, folder, "w1", metrics, lambda: drain.recover(store, folder))
    running = asyncio.create_task(one.run())
    with monkeypatch.context() as patched:
        patched.setattr(one._journal, "append", full)
        for number in range(60):
            one.note(row(number))
        await asyncio.sleep(0.3)
        assert b"sumika_usage_lost_total 10.0" in metrics.text()
    await until(lambda: count(store) == 50)
    one.close()
    await running


async def test_open_requests_stand_in_every_journal_until_they_end(store: Store, folder: Path) -> None:
    one = Metering(store, folder, "w1", Metrics(), lambda: drain.recover(store, folder))
    running = asyncio.create_task(one.run())
    one.begin("req-1", lambda: row(1)._replace(code="interrupted"))
    one.begin("req-2", lambda: row(2)._replace(code="interrupted"))
    one.note(row(2))  # within one step: no entry of it
    await until(lambda: any(b"open" in path.read_bytes() for path in folder.glob("*.journal")))
    await asyncio.sleep(2.3)  # turned over twice
    (current,) = folder.glob("*.journal")
    assert current.read_bytes().count(b'"req-1"') >= 1 and b"sealed" not in current.read_bytes()
    assert count(store) == 1, "a journal that was closed tells of nobody who is open"
    one.note(row(1))
    one.close()
    await running
    assert count(store) == 2 and list(folder.iterdir()) == []
    with store.read() as connection:
        assert set(connection.scalars(select(schema.usage.c.code))) == {""}
