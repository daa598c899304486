"""A worker's journal: rows on disk until they are in the table, so that a worker that is killed loses none of them.

A line is the CRC-32 of its payload in eight hex digits, a space, the payload, a line feed. A write that was cut off, by a kill or
a full disk, leaves one line whose CRC does not fit; it is skipped. The file is locked for as long as its writer lives.

A payload is a row as JSON; `open ` and the row that a request gets if its gateway dies now; or `sealed`, which a writer that lives
puts last. So a journal without it tells which requests its writer was killed in.
"""

from __future__ import annotations

import fcntl
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from sumika.models.home import sync_folder
from sumika.models.usage.rows import UsageRow, decoded

_SUFFIX = ".journal"
_OPEN = b"open "
_SEALED = b"sealed"


class Journal:
    """One file that is ours while we hold it. Raises OSError where the disk does, BlockingIOError for another's."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise
        self._size = os.fstat(self._fd).st_size

    def append(self, rows: Sequence[UsageRow]) -> None:
        """All of `rows`, safe from a kill when this returns and from a power cut after `sync`; none of them where it raises."""
        self._write(b"".join(_line(row.encoded()) for row in rows))

    def append_open(self, rows: Sequence[UsageRow]) -> None:
        """The same for requests that have not ended: the rows they get if this process is killed."""
        self._write(b"".join(_line(_OPEN + row.encoded()) for row in rows))

    def seal(self) -> None:
        """Say that whoever is open here is told of in a later journal."""
        self._write(_line(_SEALED))

    def _write(self, data: bytes) -> None:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(data)

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def read(self, offset: int, most: int) -> tuple[list[UsageRow], int]:
        """Up to `most` whole rows from `offset` bytes on, and where the next ones begin."""
        rows: list[UsageRow] = []
        with os.fdopen(os.dup(self._fd), "rb") as file:
            file.seek(offset)
            for line in file:
                if len(rows) == most or not line.endswith(b"\n"):
                    break
                offset += len(line)
                rows += _row(_payload(line))
        return rows, offset

    def interrupted(self) -> list[UsageRow]:
        """Rows of the requests that the writer was killed in; none where it sealed the journal."""
        opened: dict[str, UsageRow] = {}
        with os.fdopen(os.dup(self._fd), "rb") as file:
            file.seek(max(0, self._size - len(_line(_SEALED))))
            if _payload(file.read()) == _SEALED:
                return []
            file.seek(0)
            for line in file:
                payload = _payload(line)
                if payload.startswith(_OPEN):
                    opened.update((row.request, row) for row in _row(payload[len(_OPEN) :]))
                elif opened:
                    for row in _row(payload):
                        opened.pop(row.request, None)
        return list(opened.values())

    @property
    def empty(self) -> bool:
        return self._size == 0

    def close(self, *, remove: bool) -> None:
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self._fd)


def create(folder: Path, writer: str) -> Journal:
    """A new one. It gets its name when it is locked already, so that nobody takes it for abandoned."""
    path = folder / f"{writer}{_SUFFIX}"
    journal = Journal(path.with_suffix(".new"), create=True)
    journal.path.rename(path)
    journal.path = path
    sync_folder(folder)
    return journal


def abandoned(folder: Path) -> Iterator[Journal]:
    """Journals whose writer is gone, each ours until the caller closes it."""
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            journal = Journal(path)
        except (BlockingIOError, FileNotFoundError):  # its writer lives; another one was quicker
            continue
        yield journal


def _line(payload: bytes) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(payload), payload)


def _payload(line: bytes) -> bytes:
    """Nothing where the line is damaged."""
    payload = line[9:-1]
    try:
        return payload if int(line[:8], 16) == zlib.crc32(payload) else b""
    except ValueError:
        return b""


def _row(payload: bytes) -> list[UsageRow]:
    """One row; none where the payload is none."""
    try:
        return [decoded(payload)] if payload.startswith(b"{") else []
    except (ValueError, TypeError):
        return []
