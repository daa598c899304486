"""`/v1/fine_tuning/jobs`: OpenAI's fine-tuning API over our queue. A job is only taken in here; the training worker reads its
files, makes it and checks it, in a process of its own."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi import Query as InQuery
from sqlalchemy import Connection

from sumika.models import aliases, audit, files, jobs, orders, ownership, registry
from sumika.models.audit import Action
from sumika.models.errors import Language, SumikaError, not_found
from sumika.models.files import File
from sumika.models.home import Home
from sumika.models.names import VersionRef, check_name
from sumika.models.orders import Asked, Order
from sumika.models.principals import Principal
from sumika.models.store import Store
from sumika.serving.admin.asking import After, Asker, actor
from sumika.serving.bulk import tunings
from sumika.serving.bulk.lists import listed
from sumika.serving.bulk.tuning_requests import DpoHyperparameters, NewTuning, given
from sumika.serving.replies import language
from sumika.serving.sensitivity import check_sensitivity, said

Limit = Annotated[int, InQuery(ge=1, le=100)]
_LONGEST_STEM = 61


def router(store: Store, home: Home) -> APIRouter:
    routes = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"])

    def told(order: Order, request: Request) -> dict[str, Any]:
        return tunings.shown(order, _folder(home, order), _speak(request))

    def found(who: Principal, job_id: str) -> Order:
        with store.read() as connection:
            return orders.get(connection, who, job_id)

    @routes.post("")
    def create(who: Asker, asked: NewTuning, request: Request) -> dict[str, Any]:
        by = actor(who)
        check_sensitivity(who, request.scope["headers"])
        with audit.refusals(store, Action.JOB_SUBMIT, asked.suffix or asked.model, by):
            with store.read() as connection:
                wanted, sources = _wanted(connection, who, asked)
            order = orders.submit(
                store, home, wanted, who, metadata=asked.metadata, by=by,
                sensitivity=ownership.most(said(request.scope["headers"]), *(file.sensitivity for file in sources)),
                check=lambda connection: _wanted(connection, who, asked),
            )  # fmt: skip
        return told(order, request)

    @routes.get("")
    def list_jobs(who: Asker, request: Request, limit: Limit = 20, after: After = "") -> dict[str, Any]:
        with store.read() as connection:
            found = orders.page(connection, who, after=after, limit=limit + 1)
        return listed([told(order, request) for order in found], limit)

    @routes.get("/{job_id}")
    def show(who: Asker, job_id: str, request: Request) -> dict[str, Any]:
        return told(found(who, job_id), request)

    @routes.post("/{job_id}/cancel")
    def cancel(who: Asker, job_id: str, request: Request) -> dict[str, Any]:
        by = actor(who)
        with audit.refusals(store, Action.JOB_CANCEL, job_id, by), store.write(by=by) as connection:
            jobs.cancel(connection, orders.get(connection, who, job_id).job.id)
            return told(orders.get(connection, who, job_id), request)

    @routes.get("/{job_id}/events")
    def events(who: Asker, job_id: str, request: Request, limit: Limit = 20, after: After = "") -> dict[str, Any]:
        order = found(who, job_id)
        return _paged(lambda: tunings.events(order, _folder(home, order), _speak(request)), after, limit)

    @routes.get("/{job_id}/checkpoints")
    def checkpoints(who: Asker, job_id: str, limit: Limit = 10, after: After = "") -> dict[str, Any]:
        order = found(who, job_id)
        return _paged(lambda: tunings.checkpoints(order, _folder(home, order)), after, limit)

    return routes


def _wanted(connection: Connection, who: Principal, asked: NewTuning) -> tuple[Asked, list[File]]:
    """What is asked for, and the files that it is made of. Raises SumikaError: whatever of the request names something that is not there, or is not the asker's to use."""
    base = _base(connection, who, asked.model)
    named = {"training_file": asked.training_file, "validation_file": asked.validation_file}
    sources = [_source(connection, who, field, file_id) for field, file_id in named.items() if file_id is not None]
    name = check_name(asked.suffix) if asked.suffix is not None else f"{base.name[:_LONGEST_STEM]}-ft"
    aliases.check_trained_by(connection, who, name, "suffix")
    hyper = asked.chosen
    wanted = Asked(
        name, str(base), asked.training_file, asked.validation_file, asked.method.type if asked.method else "supervised",
        secrets.randbelow(2**31) if asked.seed is None else asked.seed, given(hyper.n_epochs), given(hyper.batch_size),
        given(hyper.learning_rate_multiplier), given(hyper.beta) if isinstance(hyper, DpoHyperparameters) else None,
    )  # fmt: skip
    return wanted, sources


def _base(connection: Connection, who: Principal, model: str) -> VersionRef:
    """Raises SumikaError `model_not_found` (404); `not_a_base`."""
    version = registry.seen(connection, who, VersionRef.parse(model)) if "@" in model else registry.newest(connection, model, who)
    if version is None:
        error = not_found(
            "base model", "ベースモデル", model, "'sumika models list' shows those that can be trained on.",
            "sumika models list で確認できます。",
        )  # fmt: skip
        error.code, error.param = "model_not_found", "model"
        raise error
    if version.kind != "base":
        raise SumikaError(
            "not_a_base", f"{version.ref} is an adapter; name the base that it stands on: {version.base}.",
            f"{version.ref} はアダプターです。元のベースモデル {version.base} を指定してください。", param="model",
        )  # fmt: skip
    return version.ref


def _source(connection: Connection, who: Principal, field: str, file_id: str) -> File:
    """Raises SumikaError `not_found`, `wrong_purpose`, `wrong_format`; `sensitivity_refused` (403)."""
    file = files.get(connection, who, file_id)
    if file.is_table:
        raise SumikaError(
            "wrong_format", f"{field}: {file.id} is a table; upload its rows as JSONL, or name it in a job of the console.",
            f"{field}: {file.id} は表形式です。JSONLでアップロードし直すか、コンソールのジョブで指定してください。", param=field,
        )  # fmt: skip
    if file.purpose != "fine-tune":
        raise SumikaError(
            "wrong_purpose", f"{field}: {file.id} was uploaded for '{file.purpose}'; upload it with purpose 'fine-tune'.",
            f"{field}: {file.id} の purpose は「{file.purpose}」です。purpose を fine-tune にしてアップロードしてください。", param=field,
        )  # fmt: skip
    return file


def _paged(rows: Callable[[], list[dict[str, Any]]], after: str, limit: int) -> dict[str, Any]:
    """Raises SumikaError `bad_cursor`."""
    found = rows()
    at = next((n for n, one in enumerate(found, start=1) if one["id"] == after), None) if after else 0
    if at is None:
        raise SumikaError(
            "bad_cursor", "after: it is no id of this list; use the last one of the page before.",
            "after が不正です。前のページの最後の id を指定してください。", param="after",
        )  # fmt: skip
    return listed(found[at : at + limit + 1], limit)


def _folder(home: Home, order: Order) -> Path:
    return home.runs / order.job.run


def _speak(request: Request) -> Language:
    return language(request.scope["headers"])
