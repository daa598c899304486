"""Answers of a batch on disk while it runs: appended as each comes, so that a line is asked once however often its worker dies.

Each holder of the lease writes a journal of its own, so one that was paused and wakes writes where nobody looks any more.
A record is one line: CRC-32 of the rest, the line's index, whether it went well, tokens, and the line of the output or error
file as it will stand there.
"""

from __future__ import annotations

import os
import shutil
import threading
import zlib
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path
from typing import NamedTuple

from sumika.serving.usage_events import Tokens

_SUFFIX = ".journal"


class _Place(NamedTuple):
    fd: int
    start: int
    size: int
    ok: bool


class Results:
    """What has come of a batch's lines. `writer` names the journal that is ours. Several threads may append."""

    def __init__(self, folder: Path, writer: str) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = folder
        self._places: dict[int, _Place] = {}
        self._fds: list[int] = []
        self._tokens = [0, 0, 0, 0]
        self._failed = 0
        for path in sorted(folder.glob(f"*{_SUFFIX}")):
            self._load(path)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        self._fd = os.open(folder / f"{writer}{_SUFFIX}", flags, 0o600)
        self._fds.append(self._fd)
        self._size = 0
        self._synced = 0
        self._writing = threading.Lock()

    def __contains__(self, index: int) -> bool:
        return index in self._places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def failed(self) -> int:
        return self._failed

    @property
    def tokens(self) -> Tokens:
        """Of all answers together."""
        return Tokens(*self._tokens)

    def append(self, index: int, ok: bool, tokens: Tokens, line: bytes) -> None:
        """Keep what came of a line; safe from a kill when this returns, from a power cut after `sync`. None of it where it raises."""
        counts = ",".join(str(count or 0) for count in astuple(tokens))
        rest = b"%d %d %s %s" % (index, ok, counts.encode(), line)
        record = b"%08x %s\n" % (zlib.crc32(rest), rest)
        with self._writing:
            if index in self._places:
                return
            self._write(record)
            self._note(index, _Place(self._fd, self._size - 1 - len(line), len(line), ok), counts)

    def sync(self) -> None:
        if self._synced != self._size:
            os.fdatasync(self._fd)
            self._synced = self._size

    def line(self, index: int) -> tuple[bool, bytes]:
        """Whether the line went well, and its line of the file that it belongs to."""
        place = self._places[index]
        return place.ok, os.pread(place.fd, place.size, place.start)

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _write(self, record: bytes) -> None:
        try:
            view = memoryview(record)
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(record)

    def _load(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._fds.append(fd)
        for index, place, counts in _records(fd):
            if index not in self._places:
                self._note(index, place, counts)

    def _note(self, index: int, place: _Place, counts: str) -> None:
        self._places[index] = place
        self._failed += not place.ok
        self._tokens = [a + int(b) for a, b in zip(self._tokens, counts.split(","), strict=True)]


def _records(fd: int) -> Iterator[tuple[int, _Place, str]]:
    """Whole records; what a kill or a power cut left broken is as good as not there, and so is all behind it."""
    at = 0
    with os.fdopen(os.dup(fd), "rb") as file:
        file.seek(0)
        for record in file:
            rest = record[9:-1]
            try:
                good = record.endswith(b"\n") and int(record[:8], 16) == zlib.crc32(rest)
            except ValueError:
                good = False
            if not good:
                return
            index, ok, counts, line = rest.split(b" ", 3)
            at += len(record)
            yield int(index), _Place(fd, at - 1 - len(line), len(line), ok == b"1"), counts.decode()
