"""Files that clients upload and batches make: a row each; their bytes lie on the shelf (`shelf.py`).

A file is its owner's (`Principal.owner`) and the administrators'; for everybody else, and once it has expired, there is none.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Connection, Row, and_, delete, func, insert, or_, select

from sumika.models import audit, clock, orders, ownership, schema
from sumika.models.audit import Action
from sumika.models.errors import SumikaError, not_found, quoted
from sumika.models.principals import Principal, Sensitivity

Purpose = Literal["batch", "fine-tune", "batch_output"]
# How long files of batches stay where nobody says; OpenAI's figure.
USUAL_DAYS = 30
LONGEST_NAME = 255
# By their names: tables that a training job reads, and the fine-tuning API and batches, which are OpenAI's, do not.
_TABLES = (".csv", ".tsv", ".parquet", ".xlsx")
_f = schema.files
_b = schema.batches
OPEN_BATCHES = ("validating", "in_progress", "finalizing", "cancelling")


@dataclass(frozen=True, slots=True)
class File:
    """`name` is what the client calls it, for people to read; nothing is looked up by it."""

    id: str
    owner: str
    creator: str
    purpose: Purpose
    name: str
    bytes: int
    sha256: str
    created_at: str
    expires_at: str | None
    sensitivity: Sensitivity

    @property
    def is_table(self) -> bool:
        return is_table(self.name)

    def shown(self) -> dict[str, Any]:
        """As OpenAI's `file` object."""
        return {
            "id": self.id, "object": "file", "bytes": self.bytes, "created_at": clock.seconds(self.created_at),
            "expires_at": clock.seconds(self.expires_at), "filename": self.name, "purpose": self.purpose, "status": "processed",
        }  # fmt: skip


def is_table(name: str) -> bool:
    """Whether a file of this name is read as a table, and not as JSONL."""
    return name.lower().endswith(_TABLES)


def made(
    owner: str, creator: str, purpose: Purpose, name: str, size: int, sha256: str, expires_s: int | None, sensitivity: Sensitivity
) -> File:
    """A new file, not yet in the store. `expires_s`: seconds that it stays; None: as usual for its purpose."""
    if expires_s is None and purpose != "fine-tune":
        expires_s = USUAL_DAYS * 24 * 3600
    now = datetime.now(UTC)
    until = None if expires_s is None else clock.spell(now + timedelta(seconds=expires_s))
    return File(
        f"file-{secrets.token_hex(12)}",
        owner,
        creator,
        purpose,
        quoted(name, LONGEST_NAME),
        size,
        sha256,
        clock.spell(now),
        until,
        sensitivity,
    )


def add(connection: Connection, file: File) -> None:
    connection.execute(insert(_f).values(**asdict(file)))
    told = {"purpose": file.purpose, "bytes": file.bytes, "sha256": file.sha256}
    audit.append(connection, Action.FILE_CREATE, file.id, details=told)


def get(connection: Connection, who: Principal, file_id: str) -> File:
    """Raises SumikaError `not_found`; `sensitivity_refused` (403)."""
    row = connection.execute(select(_f).where(_f.c.id == file_id, _lives())).one_or_none()
    if row is None or not ownership.owned(row, who):
        raise no_such_file(file_id)
    ownership.check_cleared(who, file_id, row.sensitivity)
    return _file(row)


def page(
    connection: Connection, who: Principal, purpose: str | None, *, after: str, limit: int, newest_first: bool
) -> list[File]:
    """From the first one behind the file `after`.

    Raises:
        SumikaError: `not_found`, for `after`.
    """
    query = select(_f).where(*ownership.seen_by(_f, who), _lives())
    if purpose is not None:
        query = query.where(_f.c.purpose == purpose)
    if after:
        last = get(connection, who, after)
        behind = _f.c.created_at < last.created_at if newest_first else _f.c.created_at > last.created_at
        further = _f.c.id < last.id if newest_first else _f.c.id > last.id
        query = query.where(or_(behind, and_(_f.c.created_at == last.created_at, further)))
    order = (_f.c.created_at.desc(), _f.c.id.desc()) if newest_first else (_f.c.created_at, _f.c.id)
    return [_file(row) for row in connection.execute(query.order_by(*order).limit(limit))]


def remove(connection: Connection, file: File) -> None:
    """Its bytes are the caller's to drop after the commit.

    Raises:
        SumikaError: `file_in_use` (409), while a batch or a job that waits to be trained reads it.
    """
    if file.id in _in_use(connection):
        raise SumikaError(
            "file_in_use",
            f"{file.id} is read by a batch or a fine-tuning job that has not ended; cancel that, or wait for its end.",
            f"{file.id} は実行中のバッチまたは学習ジョブが使用しています。中止するか、終了を待ってください。",
            status=409,
        )
    connection.execute(delete(_f).where(_f.c.id == file.id))
    audit.append(connection, Action.FILE_REMOVE, file.id, details={"purpose": file.purpose, "sha256": file.sha256})


def stored_bytes(connection: Connection, owner: str) -> int:
    return int(connection.scalar(select(func.coalesce(func.sum(_f.c.bytes), 0)).where(_f.c.owner == owner)) or 0)


def expired(connection: Connection) -> list[File]:
    """Those that nothing reads any more."""
    over = select(_f).where(_f.c.expires_at <= clock.now(), _f.c.id.not_in(_in_use(connection)))
    return [_file(row) for row in connection.execute(over)]


def ids(connection: Connection) -> set[str]:
    return set(connection.scalars(select(_f.c.id)))


def no_such_file(file_id: str) -> SumikaError:
    return not_found("file", "ファイル", file_id, "GET /v1/files lists yours.", "GET /v1/files で確認できます。")


def _in_use(connection: Connection) -> set[str]:
    reading = select(_b.c.input_id).where(_b.c.state.in_(OPEN_BATCHES))
    return {*connection.scalars(reading), *orders.files_in_use(connection)}


def _lives() -> Any:
    return or_(_f.c.expires_at.is_(None), _f.c.expires_at > clock.now())


def _file(row: Row[Any]) -> File:
    return File(**row._mapping)
