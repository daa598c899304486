"""Bring a backup back, onto a machine where there is nothing yet.

Everything is unpacked beside the home and checked to the last byte before anything is believed. Then the database is filled in one transaction and
the folder takes the home's name. Killed in between, the same command goes on: a database that holds just this backup is taken as filled.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, Table, func, select

from sumika.models.backup import tables
from sumika.models.backup.making import FORMAT, HEADER
from sumika.models.backup.pack import bad, unpack
from sumika.models.errors import SumikaError
from sumika.models.home import Home, sync_folder
from sumika.models.store import Store, alembic_config


def restore(file: Path, home: Home, database_url: str | None) -> int:
    """Bring back what `file` holds; `database_url` None: SQLite in the home. How many rows there were.

    Raises:
        SumikaError: `bad_backup`; `not_empty`, where home or database hold something; `newer_backup`; `store_unavailable`.
    """
    if home.root.exists() and any(home.root.iterdir()):
        raise _not_empty(str(home.root))
    home.root.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=home.root.parent, prefix=f".{home.root.name}.restoring-"))
    try:
        unpack(file, work)
        header = _header(work)
        root = work / "home"
        root.mkdir(mode=0o700, exist_ok=True)
        rows = _fill(database_url or f"sqlite:///{Home(root).database}", work / "tables", header)
        if home.root.exists():
            home.root.rmdir()
        root.rename(home.root)
        sync_folder(home.root.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return rows


def _header(work: Path) -> dict[str, Any]:
    try:
        header: dict[str, Any] = json.loads((work / HEADER).read_bytes())
    except FileNotFoundError:
        raise bad("it is no backup of Sumika", "Sumikaのバックアップではありません") from None
    known = {script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()}
    if header["format"] > FORMAT or header["schema"] not in known:
        raise SumikaError(
            "newer_backup", f"This backup was made by Sumika {header['sumika']}, which is newer than this one. Install that version here first.",
            f"このバックアップは新しい Sumika {header['sumika']} で作成されています。先にそのバージョンを導入してください。",
        )  # fmt: skip
    return header


def _fill(url: str, folder: Path, header: dict[str, Any]) -> int:
    store = Store(url)
    try:
        with store.migrating() as (connection, config):
            if _is_there(connection, folder):
                return sum(1 for _ in _all_lines(folder))
            command.upgrade(config, header["schema"])
            rows = 0
            for table in tables.described(connection):
                with (folder / f"{table.name}.jsonl").open("rb") as lines:
                    rows += tables.fill(connection, table, lines)
            command.upgrade(config, "head")
        return rows
    finally:
        store.close()


def _is_there(connection: Connection, folder: Path) -> bool:
    """Whether the database holds this very backup already, filled by one that was killed before its end.

    Raises:
        SumikaError: `not_empty`, where it holds anything else.
    """
    metadata = MetaData()
    metadata.reflect(connection)
    if "audit" not in metadata.tables:
        return False
    audit: Table = metadata.tables["audit"]
    last = connection.execute(select(audit.c.seq, audit.c.hash).order_by(audit.c.seq.desc()).limit(1)).one_or_none()
    rows = connection.execute(select(func.count()).select_from(metadata.tables["versions"])).scalar_one()
    if last is None and rows == 0:
        return False
    told: dict[str, Any] = {}
    with (folder / "audit.jsonl").open("rb") as lines:
        for line in lines:
            told = json.loads(line)
    if last is None or (last.seq, last.hash) != (told.get("seq"), told.get("hash")):
        raise _not_empty(str(connection.engine.url.render_as_string(hide_password=True)))
    return True


def _all_lines(folder: Path) -> Iterator[bytes]:
    for file in folder.glob("*.jsonl"):
        with file.open("rb") as lines:
            yield from lines


def _not_empty(what: str) -> SumikaError:
    return SumikaError(
        "not_empty", f"{what} holds something already, and a backup is restored only where there is nothing. Move it away, or name another place.",
        f"{what} には既にデータがあります。復元は空の場所にのみ行えます。退避するか、別の場所を指定してください。", status=409,
    )  # fmt: skip
