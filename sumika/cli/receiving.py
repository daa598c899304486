"""`sumika models receive`: what the gateway asks to import. JSON in; a line of JSON for each step, the last with the version."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import typer

from sumika.cli import importing
from sumika.cli.context import opened
from sumika.models import audit
from sumika.models.actor import Actor
from sumika.models.audit import Action
from sumika.models.errors import SumikaError

_EVERY_S = 0.2


def register(app: typer.Typer) -> None:
    app.command(hidden=True)(receive)


def receive() -> None:
    """Read `{"path": …, "name": …, "base": NAME@N or null, "by": [NAME, ROLE]}` from standard input."""
    asked, told = json.loads(sys.stdin.read()), [0.0]
    by = Actor(*asked["by"])

    def progress(done: int, total: int) -> None:
        if time.monotonic() - told[0] > _EVERY_S or done == total:
            told[0] = time.monotonic()
            _say({"done": done, "total": total})

    with opened(by) as (settings, store):
        try:
            with audit.refusals(store, Action.MODEL_IMPORT, asked["name"], by):
                version = importing.bring_in(
                    settings, store, asked["name"], Path(asked["path"]), asked["base"], with_reference=True, progress=progress
                )
        except SumikaError as error:
            _say({"error": {"code": error.code, "en": error.en, "ja": error.ja}})
            return
    _say({"version": str(version.ref)})


def _say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()
