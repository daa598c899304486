"""Training jobs that came through the API: what was asked, a row beside the job's own; what follows from it is the worker's to find out."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, Row, and_, insert, or_, select

from sumika.models import clock, jobs, ownership, runfiles, schema
from sumika.models.errors import not_found
from sumika.models.home import Home, write_atomically
from sumika.models.jobs import Job
from sumika.models.principals import Principal, Sensitivity
from sumika.models.store import Store

Method = Literal["supervised", "dpo"]
_o = schema.orders
_j = schema.jobs


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asked for; None where it left the choice to us. `name`: of the adapter that is to be made; `model`: NAME@N
    of the base. Files by their ids. `rate`: times the usual learning rate; `rows`: of one optimiser step, about."""

    name: str
    model: str
    training_file: str
    validation_file: str | None
    method: Method
    seed: int
    epochs: int | None = None
    rows: int | None = None
    rate: float | None = None
    beta: float | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """`metadata` is the client's own."""

    id: str
    owner: str
    asked: Asked
    metadata: Mapping[str, str] | None
    created_at: str
    job: Job

    @property
    def prepared(self) -> bool:
        """Whether its data was read and found right."""
        return self.job.memory > 0


def submit(
    store: Store,
    home: Home,
    asked: Asked,
    who: Principal,
    *,
    sensitivity: Sensitivity,
    metadata: Mapping[str, str] | None,
    by: Any,
    check: Callable[[Connection], object] = lambda _: None,
) -> Order:
    """Put an order into the queue, to be prepared (its data read, its job made and checked) before it is trained.

    `check` is called in the same transaction: what the order names may have been removed since it was looked at.

    Raises:
        SumikaError: what `check` raises.
    """
    folder = runfiles.create(home.runs, asked.name)
    try:
        write_atomically(folder / runfiles.ORDER, json.dumps(asdict(asked), ensure_ascii=False).encode(), mode=0o600)
        with store.write(by=by) as connection:
            check(connection)
            job = jobs.submit(
                connection,
                asked.name,
                folder.name,
                actor=who.id,
                memory=0,
                owner=who.owner,
                alias=asked.name,
                sensitivity=sensitivity,
            )
            row = {
                "id": f"ftjob-{secrets.token_hex(12)}", "owner": who.owner, "job_id": job.id,
                "asked": asdict(asked) | {"metadata": None if metadata is None else dict(metadata)}, "created_at": clock.now(),
            }  # fmt: skip
            connection.execute(insert(_o).values(**row))
            return get(connection, who, str(row["id"]))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def of_job(connection: Connection, job_id: int) -> Asked | None:
    """What was asked of a job; None where it did not come through the API."""
    row = connection.execute(_query().where(_o.c.job_id == job_id)).one_or_none()
    return None if row is None else _order(row).asked


def read(folder: Path) -> Asked | None:
    """What was asked of the run in `folder`; None where it did not come through the API."""
    told = runfiles.order(folder)
    return None if told is None else Asked(**told)


def get(connection: Connection, who: Principal, order_id: str) -> Order:
    """Raises SumikaError `not_found`; `sensitivity_refused` (403)."""
    row = connection.execute(_query().where(_o.c.id == order_id)).one_or_none()
    if row is None or not ownership.owned(row, who):
        raise not_found(
            "fine-tuning job", "学習ジョブ", order_id, "GET /v1/fine_tuning/jobs lists yours.",
            "GET /v1/fine_tuning/jobs で確認できます。",
        )  # fmt: skip
    ownership.check_cleared(who, order_id, row.sensitivity)
    return _order(row)


def page(connection: Connection, who: Principal, *, after: str, limit: int) -> list[Order]:
    """The newest first, from the first one behind `after`.

    Raises:
        SumikaError: `not_found`, for `after`.
    """
    query = _query().where(*ownership.seen_by(_j, who))
    if after:
        last = get(connection, who, after)
        query = query.where(or_(_o.c.created_at < last.created_at, and_(_o.c.created_at == last.created_at, _o.c.id < last.id)))
    return [_order(row) for row in connection.execute(query.order_by(_o.c.created_at.desc(), _o.c.id.desc()).limit(limit))]


def files_in_use(connection: Connection) -> set[str]:
    """Files of jobs that are not prepared yet: from then on a run has its own copy."""
    waiting = and_(_j.c.memory == 0, _j.c.state.not_in(jobs.OVER))
    named = [order.asked for order in map(_order, connection.execute(_query().where(waiting)))]
    return {file for asked in named for file in (asked.training_file, asked.validation_file) if file is not None}


def _query() -> Any:
    ours = (_o.c.id.label("order_id"), _o.c.asked, _o.c.created_at)
    return select(*ours, _j).join_from(_o, _j, _o.c.job_id == _j.c.id)


def _order(row: Row[Any]) -> Order:
    asked = dict(row.asked)
    metadata = asked.pop("metadata")
    job = Job(**{name: getattr(row, name) for name in Job.__dataclass_fields__})
    return Order(row.order_id, row.owner, Asked(**asked), metadata, row.created_at, job)
