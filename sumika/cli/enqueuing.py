"""`sumika finetune enqueue`: what the gateway asks to check a job and put it into the queue. JSON in, JSON out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from sumika.cli import output
from sumika.cli.context import opened, when_orphaned
from sumika.finetune import checks, config, runs
from sumika.finetune.checks.findings import Findings
from sumika.finetune.checks.light import without_torch
from sumika.finetune.config import JobConfig
from sumika.finetune.data import inputs, reports
from sumika.finetune.data.staging import Staging
from sumika.finetune.tracking import Tracking
from sumika.models import aliases, jobs, ownership, principals, runfiles
from sumika.models.actor import Actor
from sumika.models.errors import SumikaError
from sumika.models.settings import Settings
from sumika.models.store import Store
from sumika.models.yamlproblems import Document

# What a gateway that was killed left behind; one that lives removes its own.
_STALE_S = 3600


def register(app: typer.Typer) -> None:
    app.command(hidden=True)(enqueue)


def enqueue() -> None:
    """Read `{"config": YAML, "priority": N, "submit": bool, "by": [NAME, ROLE, SOURCE], "who": …, "sensitivity": …, "workspace": NAME}`
    from standard input; print the job or the figures of its check, or `{"error": …}` in both languages."""
    when_orphaned(os.getppid(), lambda: os.killpg(0, signal.SIGKILL))
    asked = json.loads(sys.stdin.read())
    without_torch()
    try:
        with opened(Actor(*asked["by"])) as (settings, store):
            done = _done(asked, settings, store)
    except SumikaError as error:
        done = _error(error, error.en, error.ja)
    except MemoryError:  # the limit that the gateway set: end as the kernel ends what takes more
        os.kill(os.getpid(), signal.SIGKILL)
    output.print_json(done)


def _done(asked: dict[str, Any], settings: Settings, store: Store) -> dict[str, Any]:
    _sweep(settings.layout.runs)
    workspace = settings.layout.runs / str(asked["workspace"])
    workspace.mkdir(mode=0o700)
    file = workspace / "job.yaml"
    try:
        file.write_text(asked["config"], encoding="utf-8")
        job, document = config.read_names(file)
        staging = Staging(store, settings.layout, settings.finetune.team_folders, principals.from_json(asked["who"]))
        with store.read() as connection:
            aliases.check_trained_by(connection, staging.who, job.serve.alias, "serve.alias")
        job = _staged(job, document, staging)
        checked = checks.check(
            job, store, settings.layout, engine=settings.engine, document=document,
            tracking=Tracking(settings.finetune.tracking, addresses=False), seen_by=staging.who,
        )  # fmt: skip
        if asked["submit"]:
            file.unlink()
            return _submitted(job, checked, workspace, asked, staging, store)
        warnings = [*checked.warnings, *checked.data.report.warnings()]
        return {"figures": checked.figures(), "warnings": [{"en": one.en, "ja": one.ja} for one in warnings]}
    except SumikaError as error:
        en, ja = (settings.layout.hidden(text.replace(str(file), file.name)) for text in (error.en, error.ja))
        return _error(error, en, ja)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def _staged(job: JobConfig, document: Document, staging: Staging) -> JobConfig:
    """Raises SumikaError `bad_config`, for what is not there and for what is not the sender's to read: nothing tells which."""
    found, missing = staging.stage(job.paths, document.path.parent)
    findings = Findings(document)
    for key in missing:
        findings.add(
            key,
            "names no file that you may read; give the id of a file that you uploaded for 'fine-tune' (file-…), or a path below "
            "your team's data folder that leads through no link",
            "に指定したファイルは利用できません。purpose を fine-tune としてアップロードしたファイルのID(file-…)か、"
            "チームのデータフォルダー以下のパス(リンクは不可)を指定してください",
        )
    findings.stop()
    return job.with_inputs(found)


def _submitted(
    job: JobConfig, checked: checks.Checked, workspace: Path, asked: dict[str, Any], staging: Staging, store: Store
) -> dict[str, Any]:
    # "the newest" may be another tomorrow, and another team's
    job = job.model_copy(update={"base": job.base.model_copy(update={"version": str(checked.base.ref)})})
    runs.keep_config(workspace, job)
    inputs.keep(workspace, job.inputs, checked.sha256)
    runs.keep(workspace, reports.JSON, checked.data.report.as_dict())
    folder = workspace.rename(workspace.with_name(runfiles.name(job.job.name)))
    who = staging.who
    try:
        with store.write() as connection:
            aliases.check_trained_by(connection, who, job.serve.alias, "serve.alias")
            row = jobs.submit(
                connection, job.job.name, folder.name, actor=asked["by"][0], priority=asked["priority"],
                memory=int(checked.figures()["memory_bytes"]), owner=who.owner, alias=job.serve.alias,
                sensitivity=ownership.most(asked["sensitivity"], *staging.sensitivities),
            )  # fmt: skip
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return asdict(row)


def _error(error: SumikaError, en: str, ja: str) -> dict[str, Any]:
    return {"error": {"en": en, "ja": ja, "code": error.code, "status": error.status, "param": error.param}}


def _sweep(folder: Path) -> None:
    for old in folder.glob(f"{runfiles.WORKSPACE}*"):
        with suppress(FileNotFoundError):  # its own check has just ended
            if old.stat().st_mtime < time.time() - _STALE_S:
                shutil.rmtree(old, ignore_errors=True)
