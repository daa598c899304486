"""The queue of trainings in both databases: whose turn it is."""

from __future__ import annotations

from sqlalchemy import Connection

from sumika.models import jobs
from sumika.models.jobs import Job
from sumika.models.store import Store


def submit(connection: Connection, owner: str, number: int, priority: int = 0) -> Job:
    name = f"{owner}-{number}"
    return jobs.submit(connection, name, name, actor="test", memory=1, priority=priority, owner=owner)


def taken(store: Store) -> str:
    """The name of the job that a worker takes next and ends."""
    with store.write() as connection:
        job = jobs.next_up(connection)
        assert job is not None
        claimed = jobs.claim(connection, job, "worker", None)
        assert claimed is not None
        jobs.end(connection, claimed, "done")
    return job.name


def test_owners_take_turns_and_priority_goes_first(store: Store) -> None:
    with store.write() as connection:
        for number in range(3):
            submit(connection, "a", number)
        submit(connection, "b", 0)
        submit(connection, "b", 1)
        submit(connection, "c", 0, priority=5)
    assert [taken(store) for _ in range(6)] == ["c-0", "a-0", "b-0", "a-1", "b-1", "a-2"]
    with store.read() as connection:
        assert jobs.next_up(connection) is None


def test_job_that_is_held_keeps_no_other_waiting(store: Store) -> None:
    with store.write() as connection:
        held, other = submit(connection, "a", 0), submit(connection, "b", 0)
        assert jobs.next_up(connection, [held.id]) == other
        assert jobs.next_up(connection, [held.id, other.id]) is None
