"""Make a backup while everything runs.

The order is what makes it whole. First what only grows (journals of usage, the audit log's checkpoints), then the database in one moment, then
the files that its rows name, which never change. So a row that a journal still held is in the database too or in the journal, at worst
in both, which the next start sees; and no checkpoint vouches for a row that is not there.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO

from sqlalchemy import Connection, MetaData, Table, select

from sumika.models import clock, signing
from sumika.models.audit import chain
from sumika.models.backup import age, tables
from sumika.models.backup.pack import Writer
from sumika.models.backup.scratch import scratch
from sumika.models.errors import SumikaError
from sumika.models.home import Home, sync_folder
from sumika.models.store import LONG_STATEMENT_S, Store

HEADER = "backup.json"
FORMAT = 2
# Of the home, what is none of a backup's: the database is told as tables, sockets and logs belong to what runs, `incoming` is somebody else's copy, `imports` tells of it.
# Which checkpoint is the last is signed anew where it is restored: a copy of that file would let somebody go back to it.
_LEFT = frozenset(
    {"run", "engines", "cache", "cache.key", "logs", "incoming", "imports", "artifacts", "runs", "files", "batches", "audit.last"}
)
_LATER = ("runs", "files", "batches")
# Of the rest of the home, what may be read by anybody: what else lies there is a key, or something that we did not make.
_IN_CLEAR = frozenset({"audit.checkpoints", "prices.yaml", "trusted", "usage"})


@dataclass(frozen=True, slots=True)
class Made:
    """What went into a backup. `key`: the fingerprint of who signed it, which a restore asks for."""

    bytes: int
    versions: int
    rows: int
    key: str


def make(store: Store, home: Home, file: Path, *, recipients: Sequence[str], settings: Path | None = None) -> Made:
    """Write everything to `file` (0600), signed and encrypted to `recipients`: whole, or not at all. Without any it is written in clear, and
    private keys and settings are left out. `settings`: the file of settings in use, taken along to be read by people.

    Raises:
        SumikaError: `exists`, `no_folder`, `disk_full`; `bad_recipient`; `artifact_missing`, where the files of a version are not there.
    """
    _check_target(file)
    try:
        with scratch(file.parent, "sumika-backup") as work:
            temp = work / file.name
            with os.fdopen(os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
                versions, rows = _write(store, home, target, recipients, settings)
                target.flush()
                os.fsync(target.fileno())
            os.link(temp, file)  # unlike a rename, never over another file
            sync_folder(file.parent)
    except FileExistsError:
        raise _exists(file) from None
    except OSError as error:
        raise SumikaError(
            "disk_full", f"The backup can't be written to {file.parent}, or a table of it to {home.root} on the way: {error.strerror}. Make room and try again.",
            f"{file.parent}(または作業用の {home.root})にバックアップを書き込めません: {error.strerror}。空きを確保してやり直してください。", status=507,
        ) from error  # fmt: skip
    return Made(file.stat().st_size, versions, rows, _key(home))


def stream(store: Store, home: Home, target: IO[bytes], *, recipients: Sequence[str], settings: Path | None = None) -> Made:
    """The same to `target`, for a program that carries it away.

    What was cut off on the way has no manifest, and is refused where it is restored.

    Raises:
        SumikaError: `artifact_missing`, `bad_recipient`; OSError: what `target` raises.
    """
    versions, rows = _write(store, home, target, recipients, settings)
    return Made(0, versions, rows, _key(home))


def _key(home: Home) -> str:
    return signing.fingerprint(signing.show(home))


def _write(store: Store, home: Home, target: IO[bytes], recipients: Sequence[str], settings: Path | None) -> tuple[int, int]:
    signing.show(home)  # the key is there before the home is listed
    with age.encrypted(target, recipients) if recipients else nullcontext(target) as sink:
        pack = Writer(sink, lambda manifest: signing.sign(home, manifest, signing.BACKUP))
        return _fill(store, home, pack, settings, with_secrets=bool(recipients))


def _fill(store: Store, home: Home, pack: Writer, settings: Path | None, *, with_secrets: bool) -> tuple[int, int]:
    with store.read() as connection:
        floor = chain.head(connection).floor
    for path in _files(home.root, _LEFT):
        if with_secrets or path.relative_to(home.root).parts[0] in _IN_CLEAR:
            _add(pack, home, path)
    if settings is not None and settings.is_file() and with_secrets:  # it may hold passwords
        pack.add_file("settings.yaml", settings)
    with store.read(statement_s=LONG_STATEMENT_S) as connection:
        found = tables.described(connection)
        if chain.head(connection).floor != floor:
            raise _pruned_meanwhile()
        header = {
            "format": FORMAT,
            "with_secrets": with_secrets,
            "sumika": version("sumika"),
            "schema": tables.revision(connection),
            "made_at": clock.now(),
        }
        pack.add(HEADER, json.dumps(header).encode())
        rows = sum(_add_table(pack, connection, table, home) for table in found)
        folders = _folders(connection)
    for folder in folders:
        _add_version(pack, home, folder)
    for name in _LATER:
        for path in _files(home.root / name, frozenset({"checkpoints"})):
            _add(pack, home, path)
    pack.close()
    return len(folders), rows


def _add_version(pack: Writer, home: Home, folder: str) -> None:
    try:
        files = list(_files(home.artifacts / folder))
        for path in files:
            pack.add_file(f"home/{path.relative_to(home.root)}", path)
    except FileNotFoundError:  # removed since the database was read
        files = []
    if not files:
        raise SumikaError(
            "artifact_missing",
            f"The files of a version are not in {home.artifacts / folder}. If somebody removed it just now, try again; else 'sumika doctor' names it: bring its files back, or remove that version.",
            f"{home.artifacts / folder} にモデルのファイルがありません。今削除された場合は再実行してください。それ以外は sumika doctor で確認し、ファイルを戻すか、そのバージョンを削除してください。",
        )


def _add(pack: Writer, home: Home, path: Path) -> None:
    with suppress(FileNotFoundError):  # drained, or removed, since it was listed
        pack.add_file(f"home/{path.relative_to(home.root)}", path)


def _add_table(pack: Writer, connection: Connection, table: Table, home: Home) -> int:
    """By way of a file in the home, which holds all of it anyway: a tar must know a member's size first, and where backups lie nothing may
    lie in clear."""
    with tempfile.TemporaryFile(dir=home.root) as lines:
        count = 0
        for count, line in enumerate(tables.rows(connection, table), start=1):  # noqa: B007 - told afterwards
            lines.write(line)
        size = lines.tell()
        lines.seek(0)
        pack.add_stream(f"tables/{table.name}.jsonl", lines, size)
    return count


def _folders(connection: Connection) -> list[str]:
    """Of versions that were not removed."""
    versions = Table("versions", MetaData(), autoload_with=connection)
    return list(connection.scalars(select(versions.c.folder).where(versions.c.removed_at.is_(None)).order_by(versions.c.id)))


def _files(folder: Path, without: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Plain files under `folder`, in order; none of folders called as in `without`, no locks, no database, nothing half-written."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name in without or path.name.startswith((".", "sumika.db")) or path.suffix == ".lock":
            continue
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            yield from _files(path, without)
        elif stat.S_ISREG(mode):
            yield path


def _pruned_meanwhile() -> SumikaError:
    """The checkpoints that were copied say nothing of it."""
    return SumikaError(
        "audit_pruned", "The audit log was pruned while the backup began, so it would not verify where it is restored. Try again, and let both run at different times.",
        "バックアップの開始中に監査ログが整理(prune)されたため、復元しても検証に合格しません。再実行し、両者の実行時刻をずらしてください。", status=409,
    )  # fmt: skip


def _check_target(file: Path) -> None:
    if file.exists():
        raise _exists(file)
    if not file.parent.is_dir():
        raise SumikaError("no_folder", f"There is no folder {file.parent}.", f"フォルダー {file.parent} がありません。")


def _exists(file: Path) -> SumikaError:
    return SumikaError(
        "exists", f"{file} is there already, and no backup is written over. Choose another name.",
        f"{file} は既に存在します。上書きはしません。別の名前を指定してください。", status=409,
    )  # fmt: skip
