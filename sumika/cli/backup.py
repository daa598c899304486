"""`sumika backup` and `sumika restore`: everything in one file, and back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from sumika.cli import output
from sumika.cli.context import actor, opened
from sumika.cli.output import Json
from sumika.models import audit, backup
from sumika.models.actor import Actor
from sumika.models.audit import Action
from sumika.models.bootstrap import open_store
from sumika.models.errors import quoted
from sumika.models.settings import DEFAULT_FILE, load_settings

_GIB = 2**30


def register(app: typer.Typer) -> None:
    app.command("backup")(make)
    app.command("restore")(restore)


def make(
    file: Annotated[Path, typer.Argument(help="The file to write. It holds keys and weights: keep it as safe as the server.")],
    json: Json = False,
) -> None:
    """Write models, keys, audit log, usage, jobs and settings to one file, while everything runs."""
    with opened() as (settings, store), audit.told(store, Action.BACKUP_CREATE, quoted(file.name)) as told:
        made = backup.make(store, settings.layout, file.absolute(), settings=Path(os.environ.get("SUMIKA_CONFIG", DEFAULT_FILE)))
        told["versions"], told["rows"] = made.versions, made.rows
    if json:
        output.print_json({"file": str(file), "bytes": made.bytes, "versions": made.versions, "rows": made.rows})
        return
    size = f"{made.bytes / _GIB:.2f} GiB"
    output.say(
        f"{file}: {made.versions} versions and {made.rows:,} rows, {size}. Bring it to another machine; 'sumika restore' reads it.",
        f"{file}: {made.versions} バージョン、{made.rows:,} 行、{size}。別の機器に保管してください。復元は sumika restore です。",
    )


def restore(file: Annotated[Path, typer.Argument(help="What 'sumika backup' wrote.")], json: Json = False) -> None:
    """Bring a backup back, where there is no Sumika yet: into the home and the database that the settings name."""
    settings = load_settings()
    rows = backup.restore(file, settings.layout, settings.database_url)
    by = Actor(actor(), "operator")
    store = open_store(settings, by)
    try:
        with audit.told(store, Action.BACKUP_RESTORE, quoted(file.name), rows=rows):
            pass
    finally:
        store.close()
    if json:
        output.print_json({"home": str(settings.layout.root), "rows": rows})
        return
    output.say(
        f"{rows:,} rows and their files are in {settings.layout.root}. Next: 'sumika audit verify', 'sumika models verify', 'sumika up'.",
        f"{rows:,} 行とファイルを {settings.layout.root} に復元しました。次に sumika audit verify、sumika models verify、sumika up を実行してください。",
    )
