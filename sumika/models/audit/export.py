"""The log as one file for somebody else: JSON Lines that can be verified without this Sumika.

The first line says what it is and where the log ended; then each row, in order, with its sealed content where it has one;
then every checkpoint. `verify_file` needs nothing but the file, and the public key to believe in.
"""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sumika.models import clock, signing
from sumika.models.audit import canonical, checkpoints, listing, snapshot, witnessed
from sumika.models.audit.chain import AuditRow, Head
from sumika.models.audit.findings import Findings
from sumika.models.audit.snapshot import Found, Snapshot
from sumika.models.audit.verify import check
from sumika.models.errors import SumikaError, quoted
from sumika.models.home import Home, sync_folder
from sumika.models.store import Store

FORMAT = "sumika-audit-1"
_LONGEST_HEADER = 4096


def export(store: Store, home: Home, file: Path) -> int:
    """Write the whole log to `file` (0600), all or nothing; how many rows.

    Raises:
        SumikaError: `exists`; `audit_broken`, for a log that can't be written down because it does not read as one.
        OSError: where the file can't be written.
    """
    if os.path.lexists(file):
        raise SumikaError(
            "exists",
            f"'{quoted(str(file))}' is already there. Choose another name.",
            f"「{quoted(str(file))}」はすでにあります。別の名前にしてください。",
            status=409,
        )
    fd, temp = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name[:32]}.", suffix=".part")
    try:
        with open(fd, "wb") as target, snapshot.opened(store, home) as seen:
            rows = 0
            for line in _lines(seen, home):
                target.write(line + b"\n")
                rows += line.startswith(b'{"row"') or line.startswith(b'{"content"')
            target.flush()
            os.fsync(target.fileno())
        os.replace(temp, file)
        sync_folder(file.parent)
        return rows
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temp)


def verify_file(file: Path, witness: Path | None = None) -> Findings:
    """Verify an export by itself, or against the file of a witness. Whoever made it may have signed it: `Findings.signers` is for the reader to compare.

    Raises:
        SumikaError: `bad_export`, for a file that is none; OSError: where it can't be read.
    """
    with file.open("rb") as stream:
        head = _head_of(_told(stream.readline(_LONGEST_HEADER)))
        if head is None:
            raise _bad_export(file)
        told = witnessed.read(witness) if witness is not None else None
        return check(_rows_of(stream), checkpoints.parse(_checkpoints_of(file), None), head, told)


def sealed_in(file: Path, seq: int) -> tuple[AuditRow, bytes]:
    """Row `seq` of an export and its sealed content, so that the key that opens it never comes near the server.

    Raises:
        SumikaError: `bad_export`; `not_found`, as `listing.sealed`; OSError: where it can't be read.
    """
    with file.open("rb") as stream:
        if _head_of(_told(stream.readline(_LONGEST_HEADER))) is None:
            raise _bad_export(file)
        for found in _rows_of(stream):
            if found.seq == seq and found.row is not None and found.sealed is not None and found.content_fits(0):
                return found.row, found.sealed
    raise listing.no_content(seq)


def _lines(seen: Snapshot, home: Home) -> Iterator[bytes]:
    yield canonical.dump(
        {
            "format": FORMAT, "at": clock.now(), "head": asdict(seen.head), "public_key": signing.line(signing.show(home)),
        }
    )  # fmt: skip
    for found in seen.rows():
        if found.row is None:
            raise SumikaError(
                "audit_broken",
                f"Row {found.seq} of the audit log can't be read: somebody changed it. Run 'sumika audit verify', and keep a copy of the database itself.",
                f"監査ログの行 {found.seq} を読み取れません。変更された可能性があります。sumika audit verify を実行し、データベース自体の写しを保全してください。",
                status=409,
            )
        content = {"content": base64.b64encode(found.sealed).decode()} if found.sealed is not None else {}
        yield canonical.dump(content | {"row": asdict(found.row)})
    for line in seen.lines:
        yield canonical.dump({"checkpoint": line.decode(errors="replace")})


def _head_of(header: dict[str, Any]) -> Head | None:
    told = header.get("head")
    if header.get("format") != FORMAT or not isinstance(told, dict):
        return None
    seq, hash, floor, content_floor = (told.get(name) for name in ("seq", "hash", "floor", "content_floor"))
    if type(seq) is int and type(floor) is int and type(content_floor) is int and isinstance(hash, str):
        return Head(seq, hash, floor, content_floor)
    return None


def _rows_of(stream: Iterable[bytes]) -> Iterator[Found]:
    """Rows from the lines after the header, up to the first checkpoint."""
    last = 0
    for line in stream:
        told = _told(line)
        if "checkpoint" in told:
            return
        found = _found(told)
        last = found.seq if found is not None else last + 1
        yield found or Found(last, None)


def _found(told: dict[str, Any]) -> Found | None:
    try:
        row = AuditRow(**told["row"])
        sealed = base64.b64decode(told["content"], validate=True) if "content" in told else None
    except (ValueError, KeyError, TypeError):
        return None
    return Found(row.seq, row, sealed) if type(row.seq) is int and isinstance(row.details, dict) else None


def _checkpoints_of(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        for line in stream:
            if line.startswith(b'{"checkpoint"'):
                yield str(_told(line).get("checkpoint", "")).encode()


def _told(line: bytes) -> dict[str, Any]:
    try:
        value = canonical.load(line.removesuffix(b"\n"))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _bad_export(file: Path) -> SumikaError:
    return SumikaError(
        "bad_export",
        f"'{quoted(str(file))}' is no export of an audit log: its first line does not say {FORMAT}. Make one with 'sumika audit export FILE'.",
        f"「{quoted(str(file))}」は監査ログの書き出しではありません(先頭行が {FORMAT} ではありません)。sumika audit export FILE で作成してください。",
    )
