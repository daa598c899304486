"""The queue of training jobs: `submit`, `list`, `show`, `logs`, `cancel`, `resume`, `compare`, and the worker itself."""

from __future__ import annotations

import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from sumika.cli import comparing, enqueuing, finetune, output
from sumika.cli.context import actor, opened, when_orphaned
from sumika.cli.finetune import File, Overrides, foreground
from sumika.cli.logs import log_to_stderr
from sumika.cli.output import Json
from sumika.finetune import checks, config, runs
from sumika.finetune.data import inputs
from sumika.finetune.queue.child import LOG
from sumika.finetune.queue.worker import Worker
from sumika.finetune.tracking import Tracking
from sumika.models import jobs, runfiles
from sumika.models.home import Home
from sumika.models.jobs import Job
from sumika.models.store import Store

app = finetune.app
enqueuing.register(app)
JobId = Annotated[int, typer.Argument(metavar="JOB", help="A job's number ('sumika finetune list').")]


@app.command()
def submit(
    file: File,
    overrides: Overrides = None,
    priority: Annotated[int, typer.Option(help="-100 to 100; the higher goes first.")] = 0,
    json: Json = False,
) -> None:
    """Check a job and put it into the queue; what is queued runs as it stands now, whatever becomes of the file."""
    job, document = config.read(file, overrides)
    with opened() as (settings, store):
        checked = checks.check(
            job, store, settings.layout, engine=settings.engine, document=document,
            tracking=Tracking(settings.finetune.tracking, addresses=False),
        )  # fmt: skip
        folder = runs.create(job, settings.layout)
        runs.keep_config(folder, job)
        inputs.keep(folder, job.inputs, checked.sha256)
        memory = int(checked.figures()["memory_bytes"])
        with store.write() as connection:
            row = jobs.submit(
                connection, job.job.name, folder.name, actor=actor(), memory=memory, priority=priority, alias=job.serve.alias
            )
    if json:
        output.print_json(asdict(row))
    else:
        output.say(
            f"Job {row.id} is queued. Watch it: sumika finetune logs -f {row.id}",
            f"ジョブ {row.id} を登録しました。様子を見る: sumika finetune logs -f {row.id}",
        )


@app.command("list")
def list_jobs(json: Json = False) -> None:
    """The queue and what became of it, newest first."""
    with opened() as (settings, store):
        with store.read() as connection:
            found = jobs.list_all(connection)
        rows = [(job, progress(settings.layout, job)) for job in found]
    if json:
        output.print_json([asdict(job) | {"progress": told} for job, told in rows])
        return
    output.print_table(
        ("job", "name", "state", "step", "loss", "left", "", "asked"),
        [
            (job.id, job.name, job.state, _steps(told), _number(told, "loss"), _left(job, told), _noted(job), _asked(job))
            for job, told in rows
        ],
        ("No job was submitted yet: sumika finetune submit JOB.yaml", "ジョブはまだありません: sumika finetune submit JOB.yaml"),
    )  # fmt: skip


@app.command()
def show(job_id: JobId, json: Json = False) -> None:
    """One job: how far it is, or how it ended."""
    with opened() as (settings, store):
        job = _job(store, job_id)
        told, result = progress(settings.layout, job), runs.result(settings.layout.runs / job.run)
        folder = settings.layout.runs / job.run
    if json:
        output.print_json(asdict(job) | {"progress": told, "result": result})
        return
    facts = asdict(job) | {
        "note": (job.note or {}).get(output.language()),
        "folder": folder,
        **{k: v for k, v in told.items() if k != "state"},
    }
    output.print_table(("", ""), [(name, value) for name, value in facts.items() if value is not None], ("", ""))


@app.command()
def logs(
    job_id: JobId, follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is over.")] = False
) -> None:
    """What a job's training printed."""
    with opened() as (settings, store):
        path, at = settings.layout.runs / _job(store, job_id).run / LOG, 0
        while True:
            over = not follow or _job(store, job_id).state in jobs.OVER
            at = _print_from(path, at)
            if over:
                return
            time.sleep(0.3)


@app.command()
def cancel(job_id: JobId, json: Json = False) -> None:
    """Take a job out of the queue; one that runs saves a checkpoint and ends."""
    with opened() as (_, store), store.write() as connection:
        job = jobs.cancel(connection, job_id)
    if json:
        output.print_json(asdict(job))
    else:
        output.say(f"Job {job.id} is {job.state}.", f"ジョブ {job.id}: {job.state}")


@app.command()
def resume(
    which: Annotated[
        str, typer.Argument(metavar="JOB|RUN", help="A job's number, or a run's folder to go on with here and now.")
    ],
    json: Json = False,
) -> None:
    """Go on from the newest good checkpoint: a job back into the queue, or a run in the foreground."""
    if not which.isascii() or not which.isdigit():
        with opened() as (settings, _):
            folder = runs.find(settings.layout, which)
        foreground(*config.read(folder / runs.CONFIG), folder, json)
        return
    with opened() as (_, store), store.write() as connection:
        job = jobs.resume(connection, int(which))
    if json:
        output.print_json(asdict(job))
    else:
        output.say(f"Job {job.id} is queued again.", f"ジョブ {job.id} を再登録しました。")


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="A job's number, a run's folder or a version NAME@N.")],
    b: Annotated[str, typer.Argument(help="Another.")],
    json: Json = False,
) -> None:
    """Two trainings side by side: what differs in their configuration, their losses, their results."""
    with opened() as (settings, store):
        sides = [comparing.side(text, store, settings.layout) for text in (a, b)]
    if json:
        output.print_json([asdict(one) for one in sides])
    else:
        comparing.tell(*sides)


@app.command()
def worker(parent: Annotated[int | None, typer.Option(hidden=True)] = None) -> None:
    """Train what is queued, one job at a time for each GPU, until Ctrl-C; 'sumika up' runs one."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if parent is not None:
        when_orphaned(parent, stop.set)
    with opened() as (settings, store):
        log_to_stderr(settings)
        Worker(store, settings).run(stop)


def progress(home: Home, job: Job) -> dict[str, Any]:
    """What the run last told of itself; empty before it began."""
    return runfiles.progress(home.runs / job.run)


def _job(store: Store, job_id: int) -> Job:
    with store.read() as connection:
        return jobs.get(connection, job_id)


def _print_from(path: Path, at: int) -> int:
    if path.exists():
        with path.open("rb") as file:
            file.seek(at)
            sys.stdout.write(file.read().decode(errors="replace"))
            sys.stdout.flush()
            return file.tell()
    return at


def _steps(told: dict[str, Any]) -> str:
    return f"{told['step']} / {told['steps']}" if told.get("steps") else ""


def _number(told: dict[str, Any], key: str) -> str:
    return "" if told.get(key) is None else f"{told[key]:.3f}"


def _left(job: Job, told: dict[str, Any]) -> str:
    if job.state != "running" or told.get("eta_s") is None:
        return ""
    minutes, seconds = divmod(int(told["eta_s"]), 60)
    return f"{minutes}:{seconds:02d}"


def _asked(job: Job) -> str:
    return f"{job.asked_at[5:16].replace('T', ' ')} {job.actor}"


def _noted(job: Job) -> str:
    return (job.note or {}).get(output.language(), "").partition("\n")[0] or job.version or ""
