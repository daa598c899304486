"""Files, batches and orders on every store: whose they are, their pages, and what may be done to them when."""

from __future__ import annotations

import pytest

from sumika.models import batches, files, jobs, orders
from sumika.models.actor import SYSTEM
from sumika.models.errors import SumikaError
from sumika.models.files import File, Purpose
from sumika.models.home import Home
from sumika.models.orders import Asked
from sumika.models.principals import Principal
from sumika.models.store import Store

WHO = Principal("k1", "batcher", "engineer", "soumu", team_id="team-1")
OTHER = Principal("k2", "other", "engineer", "eigyo", team_id="team-2")


def add(store: Store, purpose: Purpose = "batch", who: Principal = WHO, expires_s: int | None = None) -> File:
    file = files.made(who.owner, who.id, purpose, "in.jsonl", 7, "0" * 64, expires_s, "internal")
    with store.write() as connection:
        files.add(connection, file)
    return file


def batch_of(store: Store, file: File) -> batches.Batch:
    with store.write() as connection:
        return batches.create(
            connection, WHO, "/v1/completions", file, sensitivity="internal", language="ja", metadata={"部署": "総務"}, output_seconds=None
        )  # fmt: skip


def test_files_are_paged_for_their_owner(store: Store) -> None:
    made = [add(store, "batch" if n % 2 else "fine-tune") for n in range(6)]
    add(store, who=OTHER)
    with store.read() as connection:
        newest = files.page(connection, WHO, None, after="", limit=4, newest_first=True)
        rest = files.page(connection, WHO, None, after=newest[-1].id, limit=4, newest_first=True)
        assert newest + rest == made[::-1]
        assert files.page(connection, WHO, "batch", after="", limit=9, newest_first=False) == made[1::2]
        assert files.stored_bytes(connection, WHO.owner) == 42 and files.stored_bytes(connection, "team:nobody") == 0
        for call in (lambda: files.get(connection, OTHER, made[0].id), lambda: files.get(connection, WHO, "file-x")):
            with pytest.raises(SumikaError, match="There is no file"):
                call()


def test_expired_file_is_gone_at_once_and_listed_to_be_removed(store: Store) -> None:
    file, _ = add(store, expires_s=-1), add(store)
    with store.read() as connection:
        assert files.expired(connection) == [file]
        with pytest.raises(SumikaError):
            files.get(connection, WHO, file.id)
    held = add(store, expires_s=-1)
    batch_of(store, held)
    with store.read() as connection:
        assert files.expired(connection) == [file], "a batch still reads the other"
        assert held.id in files.ids(connection)


def test_batch_goes_from_state_to_state_and_holds_its_file(store: Store) -> None:
    file = add(store)
    batch = batch_of(store, file)
    with store.write() as connection:
        assert batches.list_open(connection) == [batch] and batch.metadata == {"部署": "総務"}
        batches.begin(connection, batch, 10)
        batches.count(connection, batch, 3, 1)
        with pytest.raises(SumikaError, match="has not ended"):
            files.remove(connection, file)
    with store.write() as connection:
        cancelled = batches.cancel(connection, batch)
        assert (cancelled.state, cancelled.done, cancelled.failed, cancelled.total) == ("cancelling", 3, 1, 10)
        assert batches.cancel(connection, cancelled).cancelling_at == cancelled.cancelling_at
        batches.end(connection, batch, "cancelled", done=4, failed=1, usage={"total_tokens": 5})
        batches.count(connection, batch, 0, 0)
        over = batches.find(connection, batch.id)
        assert (over.state, over.done, over.usage) == ("cancelled", 4, {"total_tokens": 5}) and batches.list_open(
            connection
        ) == []
        with pytest.raises(SumikaError, match="has ended"):
            batches.cancel(connection, over)
        files.remove(connection, file)


def test_open_batches_are_bounded_and_paged(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MOST_OPEN", 3)
    file = add(store)
    made = [batch_of(store, file) for _ in range(3)]
    with pytest.raises(SumikaError) as told:
        batch_of(store, file)
    assert told.value.status == 429
    with store.read() as connection:
        first = batches.page(connection, WHO, after="", limit=2)
        assert first + batches.page(connection, WHO, after=first[-1].id, limit=2) == made[::-1]
        assert batches.page(connection, OTHER, after="", limit=9) == []


def test_order_holds_its_files_until_it_was_prepared(store: Store, home: Home) -> None:
    file = add(store, "fine-tune")
    asked = Asked("pets", "tiny@1", file.id, None, "dpo", 3, epochs=2, beta=0.1)
    made = [
        orders.submit(store, home, asked, WHO, sensitivity="internal", metadata={"案件": "A"} if n else None, by=SYSTEM)
        for n in range(3)
    ]
    with store.read() as connection:
        assert orders.page(connection, WHO, after="", limit=9) == made[::-1] and made[1].metadata == {"案件": "A"}
        assert orders.page(connection, WHO, after=made[1].id, limit=9) == made[:1]
        assert made[0].metadata is None and made[0].asked == orders.read(home.runs / made[0].job.run) == asked
        assert orders.files_in_use(connection) == {file.id}
        with pytest.raises(SumikaError):
            orders.get(connection, OTHER, made[0].id)
    for order in made[:2]:
        with store.write() as connection:
            claimed = jobs.claim(connection, order.job, "w", None)
            assert claimed is not None and jobs.prepared(connection, claimed, 99)
            waiting = jobs.get(connection, order.job.id)
            assert (waiting.state, waiting.memory, waiting.attempts, waiting.worker) == ("queued", 99, 0, None)
            assert not jobs.prepared(connection, claimed, 99)
    with store.write() as connection:
        assert orders.files_in_use(connection) == {file.id}
        jobs.cancel(connection, made[2].job.id)
        assert orders.files_in_use(connection) == set()
        files.remove(connection, file)
