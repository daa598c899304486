"""`sumika backup` and `sumika restore`: everything in one file, and back."""

from __future__ import annotations

import os
import sys
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
from sumika.models.errors import SumikaError, quoted
from sumika.models.settings import DEFAULT_FILE, load_settings

_GIB = 2**30
_PIPE = Path("-")


def register(app: typer.Typer) -> None:
    app.command("backup")(make)
    app.command("restore")(restore)


def make(
    file: Annotated[
        Path,
        typer.Argument(help="The file to write, or '-' for a pipe. It holds keys and weights: keep it as safe as the server."),
    ],
    json: Json = False,
) -> None:
    """Write models, keys, audit log, usage, jobs and settings to one file, while everything runs."""
    if file == _PIPE:
        _pipe()
        return
    with opened() as (settings, store), audit.told(store, Action.BACKUP_CREATE, quoted(file.name)) as told:
        made = backup.make(store, settings.layout, file.absolute(), settings=_settings_file())
        told["versions"], told["rows"] = made.versions, made.rows
    if json:
        output.print_json({"file": str(file), "bytes": made.bytes, "versions": made.versions, "rows": made.rows})
        return
    size = f"{made.bytes / _GIB:.2f} GiB"
    output.say(
        f"{file}: {made.versions} versions and {made.rows:,} rows, {size}. Bring it to another machine; 'sumika restore' reads it.",
        f"{file}: {made.versions} バージョン、{made.rows:,} 行、{size}。別の機器に保管してください。復元は sumika restore です。",
    )


def _pipe() -> None:
    """To a program that encrypts it: nothing readable lies on a disk then."""
    if sys.stdout.isatty():
        raise SumikaError(
            "no_pipe",
            "A backup is not for the screen; pipe it on, as in: sumika backup - | age -r RECIPIENT > FILE.",
            "バックアップは画面に出力できません。sumika backup - | age -r 受取人 > ファイル のように渡してください。",
        )
    with opened() as (settings, store), audit.told(store, Action.BACKUP_CREATE, str(_PIPE)) as told:
        try:
            told["versions"], told["rows"] = backup.stream(store, settings.layout, sys.stdout.buffer, settings=_settings_file())
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains once more at its end
            raise SumikaError(
                "cut_off",
                "The program that was to take the backup ended before its end; what it has of it is no backup.",
                "バックアップの受け取り側が途中で終了しました。受け取った分はバックアップとして使えません。",
            ) from None


def _settings_file() -> Path:
    return Path(os.environ.get("SUMIKA_CONFIG", DEFAULT_FILE))


def restore(
    file: Annotated[Path, typer.Argument(help="What 'sumika backup' wrote; '-' for a pipe.")], json: Json = False
) -> None:
    """Bring a backup back, where there is no Sumika yet: into the home and the database that the settings name."""
    settings = load_settings()
    rows = backup.restore(Path("/dev/stdin") if file == _PIPE else file, settings.layout, settings.database_url)
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
        f"{rows:,} rows and their files are in {settings.layout.root}. Next: 'sumika doctor --deep', then 'sumika up'.",
        f"{rows:,} 行とファイルを {settings.layout.root} に復元しました。次に sumika doctor --deep、続けて sumika up を実行してください。",
    )
