"""`/admin/v1/jobs`: the queue of trainings: submit, watch, cancel, resume."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi import Path as InPath
from pydantic import Field
from sqlalchemy import Connection

from sumika.models import audit, jobs, people, runfiles
from sumika.models.audit import Action
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.jobs import Job
from sumika.models.principals import Principal
from sumika.models.settings import DEFAULT_FILE, Settings
from sumika.models.store import Store
from sumika.serving.admin.asking import After, Asker, Body, Limit, actor, number, page
from sumika.serving.sensitivity import check_sensitivity, said
from sumika.serving.submitting import Submitting

JobId = Annotated[int, InPath(ge=1, lt=2**31)]
_LOG_LINES = 200
_TEMPLATES = DEFAULT_FILE.parent / "finetune"


class NewJob(Body):
    """`config`: the job's YAML, as a file under configs/finetune would hold it."""

    config: Annotated[str, Field(max_length=60_000)]
    priority: int = Field(default=0, ge=-100, le=100)


def router(store: Store, settings: Settings) -> APIRouter:
    routes = APIRouter(prefix="/jobs")
    _add_submitting(routes, Submitting(settings.layout.runs))
    _add_watching(routes, store, settings.layout.runs)
    _add_ending(routes, store, settings.layout.runs)
    return routes


def _add_submitting(routes: APIRouter, submitting: Submitting) -> None:

    @routes.post("", status_code=201)
    async def submit(who: Asker, asked: NewJob, request: Request) -> dict[str, Any]:
        """Checked first, as `sumika finetune check` does, in a process of its own; that may take half a minute."""
        _check_priority(who, asked.priority)
        headers = request.scope["headers"]
        check_sensitivity(who, headers)
        return await submitting.submit(asked.config, asked.priority, who, said(headers))

    @routes.post("/check")
    async def check(who: Asker, asked: NewJob) -> dict[str, Any]:
        return await submitting.check(asked.config, who)

    @routes.get("/templates")
    def templates() -> dict[str, Any]:
        """The YAMLs under configs/finetune, to begin from."""
        files = sorted(_TEMPLATES.glob("*.yaml")) if _TEMPLATES.is_dir() else []
        return {"data": [{"name": file.name, "config": file.read_text(encoding="utf-8")} for file in files]}


def _add_watching(routes: APIRouter, store: Store, runs: Path) -> None:
    @routes.get("")
    def list_jobs(who: Asker, limit: Limit = 50, after: After = "") -> dict[str, Any]:
        with store.read() as connection:
            rows = jobs.list_all(connection, limit + 1, number(after), seen_by=who)
        return page(rows, limit, lambda job: job.id, lambda job: _shown(job, runs))

    @routes.get("/{job_id}")
    def show(job_id: JobId) -> dict[str, Any]:
        with store.read() as connection:
            job = jobs.get(connection, job_id)
            shown = people.named(connection, [_shown(job, runs)])[0]
        run = runs / job.run
        return shown | {"result": runfiles.result(run), "config": runfiles.config(run), "data": runfiles.data(run)}

    @routes.get("/{job_id}/metrics")
    def metrics(job_id: JobId) -> dict[str, Any]:
        with store.read() as connection:
            job = jobs.get(connection, job_id)
        return {"state": job.state, "data": runfiles.metrics(runs / job.run)}

    @routes.get("/{job_id}/log")
    def log(job_id: JobId) -> dict[str, Any]:
        """The end of what the training printed."""
        with store.read() as connection:
            job = jobs.get(connection, job_id)
        return {"text": Home(runs.parent).hidden(runfiles.tail(runs / job.run, _LOG_LINES))}


def _add_ending(routes: APIRouter, store: Store, runs: Path) -> None:
    @contextmanager
    def asked(who: Principal, action: Action, job_id: int) -> Iterator[Connection]:
        by = actor(who)
        with audit.refusals(store, action, str(job_id), by), store.write(by=by) as connection:
            yield connection

    @routes.post("/{job_id}/cancel")
    def cancel(who: Asker, job_id: JobId) -> dict[str, Any]:
        with asked(who, Action.JOB_CANCEL, job_id) as connection:
            return _shown(jobs.cancel(connection, job_id), runs)

    @routes.post("/{job_id}/resume")
    def resume(who: Asker, job_id: JobId) -> dict[str, Any]:
        with asked(who, Action.JOB_RESUME, job_id) as connection:
            return _shown(jobs.resume(connection, job_id), runs)


def _check_priority(who: Principal, priority: int) -> None:
    """Raises SumikaError `field_forbidden` (403): who goes before others is for administrators to say."""
    if priority > 0 and who.role != "admin":
        raise SumikaError(
            "field_forbidden",
            "priority: above 0 only an administrator may set it. Leave it out, or ask your administrator.",
            "priority: 0 より大きい値を指定できるのは管理者だけです。省くか、管理者に依頼してください。",
            status=403,
            param="priority",
        )


def _shown(job: Job, runs: Path) -> dict[str, Any]:
    note = None if job.note is None else {language: Home(runs.parent).hidden(text) for language, text in job.note.items()}
    return asdict(job) | {"note": note, "progress": runfiles.progress(runs / job.run)}
