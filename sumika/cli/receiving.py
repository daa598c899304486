"""`sumika models receive`: what the gateway asks to import. It says in the import's record how far it is and how it ended."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import typer

from sumika.cli import importing
from sumika.cli.context import opened
from sumika.models import audit
from sumika.models.actor import Actor
from sumika.models.audit import Action
from sumika.models.errors import SumikaError
from sumika.models.imports import Imports
from sumika.models.settings import load_settings

_EVERY_S = 0.3


def register(app: typer.Typer) -> None:
    app.command(hidden=True)(receive)


def receive() -> None:
    """Read `{"record": ID, "path": …, "base": NAME@N or null, "role": …, "lock": FD}` from standard input. The lock is given back
    as soon as the end is told: another import may begin then, and this process takes its time to go."""
    asked = json.loads(sys.stdin.read())
    records = Imports(load_settings().layout)
    one, told = records.get(asked["record"]), 0.0

    def progress(done: int, total: int) -> None:
        nonlocal one, told
        if time.monotonic() - told > _EVERY_S or done == total:
            told, one = time.monotonic(), replace(one, done=done, total=total)
            records.keep(one)

    by = Actor(one.actor, asked["role"], asked["source"])
    with opened(by) as (settings, store):
        try:
            with audit.refusals(store, Action.MODEL_IMPORT, one.name, by):
                version = importing.bring_in(
                    settings, store, one.name, Path(asked["path"]), asked["base"], with_reference=True, progress=progress
                )
        except SumikaError as error:
            end = replace(one, state="failed", error={"code": error.code, "en": error.en, "ja": error.ja})
        else:
            end = replace(one, state="done", version=str(version.ref))
    records.keep(end)
    os.close(asked["lock"])
