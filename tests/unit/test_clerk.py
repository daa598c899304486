"""The clerk: closed journals come into the table and the audit log once, whoever dies meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from sqlalchemy import func, select

from sumika.models import clock, schema
from sumika.models.audit import listing
from sumika.models.audit.listing import Filter
from sumika.models.audit.verify import verify
from sumika.models.bootstrap import open_store
from sumika.models.settings import AuditSettings, Settings
from sumika.models.store import Store
from sumika.models.usage import journal
from sumika.models.usage.rows import UsageRow
from sumika.serving import clerk
from sumika.serving.clerk import Clerk


def row(number: int, status: int = 200) -> UsageRow:
    return UsageRow(
        f"req-{number}", clock.now(), "key-1", None, "faq", "faq@1", "chat", status, "" if status == 200 else "engine_failed",
        False, 7, None, 3, None, 1, 2, "app",
    )  # fmt: skip


def closed(settings: Settings, name: str, rows: list[UsageRow]) -> Path:
    made = journal.create(settings.layout.usage, name)
    made.append(rows)
    made.close(remove=False)
    return made.path


def count(store: Store) -> int:
    with store.read() as connection:
        return connection.scalar(select(func.count()).select_from(schema.usage)) or 0


def until(true: object, within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def test_each_request_is_told_once_and_signed_for(settings: Settings) -> None:
    store = open_store(settings)
    one = Clerk(settings, store)
    path = closed(settings, "w1-0", [row(n, 502 if n == 7 else 200) for n in range(3000)])
    data = path.read_bytes()
    one.drain()
    path.write_bytes(data)  # as if it had been killed between the commit and the removal
    one.drain()
    one.sign()
    with store.read() as connection:
        told = [found for found in listing.find(connection, Filter(), 100_000)[::-1] if found.action == "inference.chat"]
    assert [found.details["request"] for found in told] == [f"req-{n}" for n in range(3000)] and count(store) == 3000
    assert (told[7].outcome, told[7].reason, told[7].actor, told[7].role) == ("failed", "engine_failed", "key-1", "app")
    assert told[0].details == {"request": "req-0", "version": "faq@1", "status": 200, "ms": 2}
    found = verify(store, settings.layout)
    assert found.ok and found.unsigned == 0


@pytest.mark.parametrize("policy", ["none", "content"])
def test_what_the_log_does_not_want_or_has_from_elsewhere_is_only_counted(settings: Settings, policy: str) -> None:
    store = open_store(settings)
    closed(settings, "w1-0", [row(1)])
    audit = AuditSettings(inference=policy, content_key=Path("key.pub") if policy == "content" else None)
    Clerk(settings.model_copy(update={"audit": audit}), store).drain()
    with store.read() as connection:
        assert not [found for found in listing.find(connection, Filter(), 100) if found.action == "inference.chat"]
    assert count(store) == 1


def test_a_clerk_drains_while_its_gateway_lives_and_at_the_end(settings: Settings) -> None:
    store = open_store(settings)
    with clerk.beside(settings) as ours:
        first = closed(settings, "w1-0", [row(1)])
        until(lambda: not first.exists())
        assert ours.alive and count(store) == 1
        closed(settings, "w1-1", [row(2)])
    assert not ours.alive and count(store) == 2 and list(settings.layout.usage.iterdir()) == []


def test_a_clerk_drains_what_a_killed_gateway_left_and_ends(settings: Settings) -> None:
    store = open_store(settings)

    def be_gateway() -> None:
        with clerk.beside(settings):
            journal.create(settings.layout.usage, "w1-0").append([row(1)])
            os.kill(os.getpid(), signal.SIGKILL)

    gateway = multiprocessing.get_context("fork").Process(target=be_gateway)
    gateway.start()
    gateway.join()
    until(lambda: count(store) == 1)
    assert verify(store, settings.layout).ok
    until(lambda: list(settings.layout.usage.iterdir()) == [])
