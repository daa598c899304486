"""Batches of requests: a row each, moved from state to state by whoever holds the lease of the bulk worker, or cancelled.

The requests and answers lie on disk; here is how far a batch is and how it ended.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Connection, Row, and_, func, insert, or_, select, update

from sumika.models import audit, clock, ownership, schema
from sumika.models.audit import Action
from sumika.models.errors import Language, SumikaError, not_found
from sumika.models.files import OPEN_BATCHES, File
from sumika.models.principals import Principal, Sensitivity

State = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
WINDOW = timedelta(hours=24)
# Of one owner, that have not ended.
MOST_OPEN = 100
_b = schema.batches


@dataclass(frozen=True, slots=True)
class Batch:
    """`key`: under whose rights, limits and name its requests are made. `done` and `failed` of `total` requests have ended.
    `errors`: why it failed as a whole, in OpenAI's shape."""

    id: str
    owner: str
    key: str
    state: State
    endpoint: str
    input_id: str
    sensitivity: Sensitivity
    language: Language
    metadata: dict[str, str] | None
    output_seconds: int | None
    total: int
    done: int
    failed: int
    usage: dict[str, Any] | None
    errors: list[dict[str, Any]] | None
    output_id: str | None
    errors_id: str | None
    created_at: str
    expires_at: str
    begun_at: str | None
    finalizing_at: str | None
    cancelling_at: str | None
    ended_at: str | None

    def shown(self) -> dict[str, Any]:
        """As OpenAI's `batch` object."""
        ended = {f"{state}_at": None for state in ("completed", "failed", "expired", "cancelled")}
        if self.ended_at is not None:
            ended[f"{self.state}_at"] = clock.seconds(self.ended_at)  # type: ignore[assignment]
        return {
            "id": self.id, "object": "batch", "endpoint": self.endpoint, "input_file_id": self.input_id, "completion_window": "24h",
            "status": self.state, "output_file_id": self.output_id, "error_file_id": self.errors_id,
            "errors": None if self.errors is None else {"object": "list", "data": self.errors},
            "created_at": clock.seconds(self.created_at), "in_progress_at": clock.seconds(self.begun_at),
            "expires_at": clock.seconds(self.expires_at), "finalizing_at": clock.seconds(self.finalizing_at),
            "cancelling_at": clock.seconds(self.cancelling_at), **ended,
            "request_counts": {"total": self.total, "completed": self.done, "failed": self.failed},
            "usage": self.usage, "metadata": self.metadata,
        }  # fmt: skip


def create(
    connection: Connection,
    who: Principal,
    endpoint: str,
    input: File,
    *,
    sensitivity: Sensitivity,
    language: Language,
    metadata: Mapping[str, str] | None,
    output_seconds: int | None,
) -> Batch:
    """As confidential as its input, or more where the request says so.

    Raises:
        SumikaError: `too_many_batches` (429).
    """
    open_now = connection.scalar(select(func.count()).where(_b.c.owner == who.owner, _b.c.state.in_(OPEN_BATCHES)))
    if (open_now or 0) >= MOST_OPEN:
        raise SumikaError(
            "too_many_batches",
            f"{MOST_OPEN} batches of yours have not ended; wait for some of them, or cancel some.",
            f"終了していないバッチが上限の {MOST_OPEN} 件あります。終了を待つか、中止してください。",
            status=429,
            retry_after=60,
        )
    now = datetime.now(UTC)
    row = {
        "id": f"batch_{secrets.token_hex(12)}", "owner": who.owner, "key": who.id, "state": "validating", "endpoint": endpoint,
        "input_id": input.id, "sensitivity": ownership.most(sensitivity, input.sensitivity), "language": language,
        "metadata": None if metadata is None else dict(metadata), "output_seconds": output_seconds, "total": 0, "done": 0, "failed": 0,
        "created_at": clock.spell(now), "expires_at": clock.spell(now + WINDOW),
    }  # fmt: skip
    connection.execute(insert(_b).values(**row))
    audit.append(connection, Action.BATCH_CREATE, str(row["id"]), details={"endpoint": endpoint, "input": input.id})
    return find(connection, str(row["id"]))


def find(connection: Connection, batch_id: str) -> Batch:
    return _batch(connection.execute(select(_b).where(_b.c.id == batch_id)).one())


def get(connection: Connection, who: Principal, batch_id: str) -> Batch:
    """Raises SumikaError `not_found`; `sensitivity_refused` (403)."""
    row = connection.execute(select(_b).where(_b.c.id == batch_id)).one_or_none()
    if row is None or not ownership.owned(row, who):
        raise not_found("batch", "バッチ", batch_id, "GET /v1/batches lists yours.", "GET /v1/batches で確認できます。")
    ownership.check_cleared(who, batch_id, row.sensitivity)
    return _batch(row)


def page(connection: Connection, who: Principal, *, after: str, limit: int) -> list[Batch]:
    """The newest first, from the first one behind the batch `after`.

    Raises:
        SumikaError: `not_found`, for `after`.
    """
    query = select(_b).where(*ownership.seen_by(_b, who))
    if after:
        last = get(connection, who, after)
        query = query.where(or_(_b.c.created_at < last.created_at, and_(_b.c.created_at == last.created_at, _b.c.id < last.id)))
    return [_batch(row) for row in connection.execute(query.order_by(_b.c.created_at.desc(), _b.c.id.desc()).limit(limit))]


def list_open(connection: Connection) -> list[Batch]:
    """All that have not ended, the oldest first."""
    rows = connection.execute(select(_b).where(_b.c.state.in_(OPEN_BATCHES)).order_by(_b.c.created_at, _b.c.id))
    return [_batch(row) for row in rows]


def cancel(connection: Connection, batch: Batch) -> Batch:
    """Ask it to end; the bulk worker does, with what is done.

    Raises:
        SumikaError: `batch_over` (409).
    """
    if batch.state not in OPEN_BATCHES:
        raise SumikaError(
            "batch_over",
            f"Batch {batch.id} has ended ({batch.state}).",
            f"バッチ {batch.id} は終了しています({batch.state})。",
            status=409,
        )
    may = ("validating", "in_progress")
    changed = connection.execute(
        update(_b).where(_b.c.id == batch.id, _b.c.state.in_(may)).values(state="cancelling", cancelling_at=clock.now())
    )
    if changed.rowcount:
        audit.append(connection, Action.BATCH_CANCEL, batch.id)
    return find(connection, batch.id)


def begin(connection: Connection, batch: Batch, total: int) -> None:
    values = {"state": "in_progress", "total": total, "begun_at": clock.now()}
    connection.execute(update(_b).where(_b.c.id == batch.id, _b.c.state == "validating").values(**values))


def count(connection: Connection, batch: Batch, done: int, failed: int) -> None:
    """Nothing once it has ended: how far it was then stands."""
    connection.execute(update(_b).where(_b.c.id == batch.id, _b.c.state.in_(OPEN_BATCHES)).values(done=done, failed=failed))


def finalize(connection: Connection, batch: Batch) -> None:
    """No request is made any more; the files are."""
    values = {"state": "finalizing", "finalizing_at": clock.now()}
    connection.execute(update(_b).where(_b.c.id == batch.id, _b.c.state == "in_progress").values(**values))


def end(connection: Connection, batch: Batch, state: State, **values: Any) -> None:
    """How it ended; `values` are columns of the row."""
    connection.execute(update(_b).where(_b.c.id == batch.id).values(state=state, ended_at=clock.now(), **values))
    over = find(connection, batch.id)
    told = {"total": over.total, "done": over.done, "failed": over.failed, "output": over.output_id, "errors": over.errors_id}
    outcome: Literal["done", "failed"] = "failed" if state == "failed" else "done"
    audit.append(connection, Action.BATCH_END, batch.id, outcome=outcome, reason=state, details=told)


def _batch(row: Row[Any]) -> Batch:
    return Batch(**row._mapping)
