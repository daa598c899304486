"""Training jobs in the queue: a row each, moved from state to state by compare-and-set."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Connection, Row, func, insert, or_, select, update

from sumika.models import audit, clock, ownership, schema
from sumika.models.audit import Action
from sumika.models.errors import SumikaError, not_found
from sumika.models.principals import OPERATOR, USUAL, Principal, Sensitivity

State = Literal["queued", "running", "stopping", "done", "refused", "failed", "cancelled"]
# `refused`: trained and registered, but its gate says no. `stopping`: asked to end while it ran.
OVER: tuple[State, ...] = ("done", "refused", "failed", "cancelled")
# A worker that has not said so for this long is dead.
LOST_S = 15.0
_j = schema.jobs


@dataclass(frozen=True, slots=True)
class Job:
    """`run`: its folder under $SUMIKA_HOME/runs. `memory`: bytes it is reckoned to take; 0: its data was not looked at yet. `note`: why it waits, or how it
    failed, in both languages. `owner` (`Principal.owner`) and the administrators see it; `alias`: what it trains for, None where
    nobody wrote it down; `sensitivity`: of its data."""

    id: int
    name: str
    run: str
    state: State
    priority: int
    actor: str
    memory: int
    attempts: int
    worker: str | None
    gpu: int | None
    note: dict[str, str] | None
    version: str | None
    asked_at: str
    started_at: str | None
    ended_at: str | None
    owner: str
    alias: str | None
    sensitivity: Sensitivity


def submit(
    connection: Connection, name: str, run: str, *, actor: str, memory: int, priority: int = 0,
    owner: str = OPERATOR, alias: str | None = None, sensitivity: Sensitivity = USUAL,
) -> Job:  # fmt: skip
    """Raises SumikaError `bad_priority`, outside -100 to 100."""
    if not -100 <= priority <= 100:
        raise SumikaError(
            "bad_priority",
            f"A job's priority is -100 to 100, not {priority}; the higher goes first.",
            f"優先度は -100〜100 です({priority} は指定できません)。大きいほど先に実行されます。",
        )
    row = {
        "name": name, "run": run, "state": "queued", "priority": priority, "actor": actor, "memory": memory, "attempts": 0,
        "asked_at": clock.now(), "owner": owner, "alias": alias, "sensitivity": sensitivity,
    }  # fmt: skip
    inserted = connection.execute(insert(_j).values(**row)).inserted_primary_key
    assert inserted is not None  # noqa: S101 - an insert of one row has one
    audit.append(connection, Action.JOB_SUBMIT, str(inserted[0]), details={"name": name, "run": run, "priority": priority})
    return get(connection, inserted[0])


def get(connection: Connection, job_id: int) -> Job:
    """Raises SumikaError `not_found`."""
    row = connection.execute(select(_j).where(_j.c.id == job_id)).one_or_none()
    if row is None:
        raise no_such_job(str(job_id))
    return _job(row)


def seen(connection: Connection, who: Principal, job_id: int) -> Job:
    """Raises SumikaError `not_found`, also for one that is not `who`'s to see; `sensitivity_refused` (403)."""
    job = get(connection, job_id)
    if not ownership.owned(job, who):
        raise no_such_job(str(job_id))
    ownership.check_cleared(who, f"job {job_id}", job.sensitivity)
    return job


def no_such_job(job_id: str) -> SumikaError:
    return not_found("job", "ジョブ", job_id, "'sumika finetune list' shows them.", "sumika finetune list で確認できます。")


def list_all(
    connection: Connection, limit: int = 1000, below: int | None = None, *, seen_by: Principal | None = None
) -> list[Job]:
    """Newest first; `below`: the last id of the page before; `seen_by`: those that are this one's to see."""
    query = select(_j).order_by(_j.c.id.desc()).limit(limit)
    if seen_by is not None:
        query = query.where(*ownership.seen_by(_j, seen_by))
    return [_job(row) for row in connection.execute(query if below is None else query.where(_j.c.id < below))]


def of_run(connection: Connection, run: str) -> Job | None:
    row = connection.execute(select(_j).where(_j.c.run == run)).one_or_none()
    return None if row is None else _job(row)


def next_up(connection: Connection, besides: Collection[int] = ()) -> Job | None:
    """What a worker should take: of the queued jobs, and of those whose worker died, the one of highest priority, then of the owner
    whose last job was begun longest ago, then the oldest. `besides`: ids of jobs that can't be taken now."""
    now, silence = datetime.now(UTC), timedelta(seconds=LOST_S)
    # A sign from the future is of a worker that died before the clock was put back.
    silent = or_(_j.c.beat_at < clock.spell(now - silence), _j.c.beat_at > clock.spell(now + silence))
    may = or_(_j.c.state == "queued", _j.c.state.in_(("running", "stopping")) & silent)
    begun = select(_j.c.owner, func.max(_j.c.started_at).label("at")).group_by(_j.c.owner).subquery()
    turns = (_j.c.priority.desc(), func.coalesce(begun.c.at, ""), _j.c.id)
    query = select(_j).join(begun, begun.c.owner == _j.c.owner).where(may, _j.c.id.not_in(besides))
    row = connection.execute(query.order_by(*turns).limit(1)).one_or_none()
    return None if row is None else _job(row)


def claim(connection: Connection, job: Job, worker: str, gpu: int | None) -> Job | None:
    """The job as ours; None when another worker was first. One that was asked to stop and lost its worker is cancelled."""
    now = clock.now()
    same = (
        _j.c.id == job.id,
        _j.c.state == job.state,
        _j.c.attempts == job.attempts,
        _j.c.worker.is_not_distinct_from(job.worker),
    )
    if job.state == "stopping":
        connection.execute(update(_j).where(*same).values(state="cancelled", worker=None, ended_at=now))
        return None
    values = {"state": "running", "worker": worker, "gpu": gpu, "beat_at": now, "attempts": job.attempts + 1, "note": None}
    taken = connection.execute(update(_j).where(*same).values(**values, started_at=job.started_at or now, ended_at=None))
    return get(connection, job.id) if taken.rowcount == 1 else None


def beat(connection: Connection, job: Job) -> State | None:
    """Say that `job.worker` still has it; its state now, or None when it is another's."""
    ours = (_j.c.id == job.id, _j.c.worker == job.worker, _j.c.attempts == job.attempts)
    connection.execute(update(_j).where(*ours).values(beat_at=clock.now()))
    return connection.scalar(select(_j.c.state).where(*ours))


def note(connection: Connection, job: Job, en: str, ja: str) -> None:
    """Why it waits."""
    told = {"en": en, "ja": ja}
    if told != job.note:
        connection.execute(update(_j).where(_j.c.id == job.id, _j.c.state == "queued").values(note=told))


def end(
    connection: Connection, job: Job, state: State, *, note: dict[str, str] | None = None, version: str | None = None
) -> bool:
    """How our attempt ended; `queued` puts it back. False when it is another's by now."""
    values: dict[str, Any] = {"state": state, "worker": None, "gpu": None, "note": note, "version": version}
    if state in OVER:
        values["ended_at"] = clock.now()
    ours = (_j.c.id == job.id, _j.c.worker == job.worker, _j.c.attempts == job.attempts)
    return connection.execute(update(_j).where(*ours).values(**values)).rowcount == 1


def prepared(connection: Connection, job: Job, memory: int) -> bool:
    """Our attempt found the job's data right: it waits to be trained. False when it is another's by now."""
    values = {"state": "queued", "worker": None, "gpu": None, "note": None, "memory": memory, "attempts": 0}
    ours = (_j.c.id == job.id, _j.c.worker == job.worker, _j.c.attempts == job.attempts, _j.c.state == "running")
    return connection.execute(update(_j).where(*ours).values(**values)).rowcount == 1


def cancel(connection: Connection, job_id: int) -> Job:
    """At once where it waits; one that runs saves a checkpoint and ends.

    Raises:
        SumikaError: `not_found`; `job_over` (409).
    """
    job = get(connection, job_id)
    if job.state in OVER:
        raise _over(job)
    audit.append(connection, Action.JOB_CANCEL, str(job_id), details={"run": job.run})
    connection.execute(update(_j).where(_j.c.id == job_id, _j.c.state == "running").values(state="stopping"))
    now = {"state": "cancelled", "ended_at": clock.now(), "note": None}
    connection.execute(update(_j).where(_j.c.id == job_id, _j.c.state == "queued").values(**now))
    return get(connection, job_id)


def resume(connection: Connection, job_id: int) -> Job:
    """Put a job that failed or was cancelled back into the queue; it goes on from its newest checkpoint.

    Raises:
        SumikaError: `not_found`; `job_not_over` or `job_over` (409).
    """
    job = get(connection, job_id)
    if job.state in ("done", "refused"):
        raise _over(job)
    values = {"state": "queued", "attempts": 0, "worker": None, "note": None, "ended_at": None}
    changed = connection.execute(update(_j).where(_j.c.id == job_id, _j.c.state.in_(("failed", "cancelled"))).values(**values))
    if changed.rowcount != 1:
        raise SumikaError(
            "job_not_over",
            f"Job {job_id} is {job.state}; only one that failed or was cancelled can be resumed.",
            f"ジョブ {job_id} は {job.state} です。失敗または中止したものだけ再開できます。",
            status=409,
        )
    audit.append(connection, Action.JOB_RESUME, str(job_id), details={"run": job.run})
    return get(connection, job_id)


def _over(job: Job) -> SumikaError:
    return SumikaError(
        "job_over",
        f"Job {job.id} is over ({job.state}).",
        f"ジョブ {job.id} は終わっています({job.state})。",
        status=409,
    )


def _job(row: Row[Any]) -> Job:
    return Job(**{name: getattr(row, name) for name in Job.__dataclass_fields__})
