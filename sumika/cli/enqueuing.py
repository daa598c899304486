"""`sumika finetune enqueue`: what the gateway asks to check a job and put it into the queue. JSON in, JSON out."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from sumika.cli import output
from sumika.cli.context import opened
from sumika.finetune import checks, config, runs
from sumika.finetune.checks.light import without_torch
from sumika.finetune.data import reports
from sumika.models import jobs
from sumika.models.actor import Actor
from sumika.models.errors import SumikaError


def register(app: typer.Typer) -> None:
    app.command(hidden=True)(enqueue)


def enqueue() -> None:
    """Read `{"config": YAML, "priority": N, "submit": bool, "by": [NAME, ROLE, SOURCE]}` from standard input; print the job or the figures of
    its check, or `{"error": …}` in both languages."""
    asked = json.loads(sys.stdin.read())
    without_torch()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "job.yaml"
        file.write_text(asked["config"], encoding="utf-8")
        try:
            output.print_json(_done(asked, file))
        except SumikaError as error:
            told = {"en": error.en.replace(str(file), file.name), "ja": error.ja.replace(str(file), file.name)}
            output.print_json({"error": told | {"code": error.code, "status": error.status, "param": error.param}})


def _done(asked: dict[str, Any], file: Path) -> dict[str, Any]:
    by = Actor(*asked["by"])
    job, document = config.read(file)
    with opened(by) as (settings, store):
        checked = checks.check(job, store, settings.layout, engine=settings.engine, document=document)
        if not asked["submit"]:
            warnings = [*checked.warnings, *checked.data.report.warnings()]
            return {"figures": checked.figures(), "warnings": [{"en": one.en, "ja": one.ja} for one in warnings]}
        folder = runs.create(job, settings.layout)
        runs.keep_config(folder, job)
        runs.keep(folder, reports.JSON, checked.data.report.as_dict())
        memory = int(checked.figures()["memory_bytes"])
        with store.write() as connection:
            row = jobs.submit(connection, job.job.name, folder.name, actor=by.name, memory=memory, priority=asked["priority"])
    return asdict(row)
