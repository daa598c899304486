"""Bring a backup back, onto a machine where there is nothing yet.

Everything is unpacked beside the home and checked to the last byte before anything is believed. Then the database is filled in one transaction and
the folder takes the home's name. Killed in between, the same command goes on: a database that holds just this backup is taken as filled.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from alembic import command
from alembic.script import ScriptDirectory
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import Connection, MetaData, Table, func, select

from sumika.models import audit, signing
from sumika.models.actor import UNNAMED, Actor
from sumika.models.audit import Action, adopting, checkpoints
from sumika.models.backup import age, tables
from sumika.models.backup.making import FORMAT, HEADER
from sumika.models.backup.pack import bad, unpack
from sumika.models.backup.scratch import scratch
from sumika.models.errors import SumikaError, quoted
from sumika.models.home import Home, sync_folder
from sumika.models.store import Store, alembic_config

_CHUNK = 2**20
# Rows that a restore itself appends to what it brings back.
_OWN_ROWS = (Action.AUDIT_STATE, Action.BACKUP_RESTORE)


@dataclass(frozen=True, slots=True)
class Restored:
    """How many rows there were, who had signed them (None: nobody), and whether private keys were among the files."""

    rows: int
    key: str | None
    with_secrets: bool


def restore(
    file: Path,
    home: Home,
    database_url: str | None,
    *,
    key: str | None,
    unsigned: bool = False,
    identity: Path | None = None,
    by: Actor = UNNAMED,
) -> Restored:
    """Bring back what `file` holds, and have its log say that `by` did; `database_url` None: SQLite in the home. `key`: the fingerprint of who must have signed it; with
    `unsigned` whoever did, or nobody. `identity`: the file of age's private key, for one that is encrypted.

    Raises:
        SumikaError: `bad_backup`; `unsigned_backup`; `untrusted_key` (403); as `age.decrypted`; `not_empty`, where home or database hold
            something; `newer_backup`; `store_unavailable`.
    """
    if home.root.exists() and any(home.root.iterdir()):
        raise _not_empty(str(home.root))
    home.root.parent.mkdir(parents=True, exist_ok=True)
    with scratch(home.root.parent, f"{home.root.name}.restoring") as work:
        with _opened(file, identity) as source:
            signer = unpack(source, work)
        found = None if signer is None else signing.fingerprint(signer)
        if not unsigned:
            _check_signer(found, key)
        header = _header(work)
        root = work / "home"
        root.mkdir(mode=0o700, exist_ok=True)
        if signer is not None and not unsigned:
            _keep_trust(Home(root), signer)
        told = {"key": found, "believed": not unsigned}
        store = Store(database_url or f"sqlite:///{Home(root).database}", by=by)
        rows = _fill(store, work / "tables", header, Home(root), quoted(file.name), told)
        checkpoints.keep_last(Home(root))
        if home.root.exists():
            home.root.rmdir()
        root.rename(home.root)
        sync_folder(home.root.parent)
    return Restored(rows, found, bool(header.get("with_secrets", True)))


@contextmanager
def _opened(file: Path, identity: Path | None) -> Iterator[IO[bytes]]:
    """In clear, whatever it is on the disk; `file` may be a pipe."""
    try:
        stream = file.open("rb")
    except FileNotFoundError:
        raise SumikaError("not_found", f"There is no file {file}.", f"{file} がありません。", status=404) from None
    with stream:
        begin = stream.read(len(age.MAGIC))
        again = cast(IO[bytes], io.BufferedReader(_Again(begin, stream), _CHUNK))
        with age.decrypted(again, identity) if begin == age.MAGIC else nullcontext(again) as source:
            yield source


class _Again(io.RawIOBase):
    """What was read of `rest` already, then the rest."""

    def __init__(self, begin: bytes, rest: IO[bytes]) -> None:
        self._begin = begin
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._begin[: len(buffer)] or self._rest.read(len(buffer))
        self._begin = self._begin[len(data) :]
        buffer[: len(data)] = data
        return len(data)


def _check_signer(found: str | None, key: str | None) -> None:
    if found is None:
        raise SumikaError(
            "unsigned_backup",
            "This backup is not signed, so anybody may have made it: older releases wrote such ones. To take it all the same, on nobody's word, add --unsigned. Nothing was changed here.",
            "このバックアップには署名がなく、誰が作成したか確認できません(旧版のバックアップには署名がありません)。それでも復元する場合は --unsigned を付けてください。何も変更していません。",
            status=403,
        )
    if found != key:
        wanted = ("", "") if key is None else (f" and not by {key}", f"({key} ではありません)")
        raise SumikaError(
            "untrusted_key",
            f"This backup is signed by {found}{wanted[0]}. If that is what 'sumika signing show' or 'sumika backup' printed where it was made, add --key {found}. Nothing was changed here.",
            f"このバックアップの署名者は {found} です{wanted[1]}。作成元の sumika signing show または sumika backup が表示した指紋と一致する場合は --key {found} を付けてください。何も変更していません。",
            status=403,
        )


def _keep_trust(home: Home, signer: Ed25519PublicKey) -> None:
    """Where the key stayed behind, another will sign the log from now on: what this one signed still counts."""
    if not (home.root / "signing.key").exists():
        name = f"restored-{hashlib.sha256(signer.public_bytes_raw()).hexdigest()[:12]}"  # what was restored may be restored from again
        signing.trust(home, signing.line(signer), name, "log")


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


def _fill(store: Store, folder: Path, header: dict[str, Any], home: Home, file: str, told: dict[str, Any]) -> int:
    """The row that tells of the restore is written with all others: whoever kills it afterwards hides nothing."""
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
            adopting.adopt(connection, home, header["schema"])
            audit.append(connection, Action.BACKUP_RESTORE, file, details=told | {"rows": rows})
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
    log: Table = metadata.tables["audit"]
    last = connection.execute(
        select(log.c.seq, log.c.hash).where(log.c.action.not_in(_OWN_ROWS)).order_by(log.c.seq.desc()).limit(1)
    ).one_or_none()
    rows = connection.execute(select(func.count()).select_from(metadata.tables["versions"])).scalar_one()
    if last is None and rows == 0:
        return False
    told: dict[str, Any] = {}
    with (folder / "audit.jsonl").open("rb") as lines:
        for line in lines:
            row = json.loads(line)
            told = row if row["action"] not in _OWN_ROWS else told
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
