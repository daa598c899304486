"""What lies in a bundle, and how it is written: each member once, then the signed list of their hashes."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sumika.cli.bundling.laydown import SIGNATURE, SUMS
from sumika.models.artifacts import Progress

_CHUNK = 2**20


@dataclass(frozen=True, slots=True)
class Member:
    """`chunks` gives its `size` bytes, anew at each call."""

    name: str
    size: int
    chunks: Callable[[], Iterator[bytes]]


def of_text(name: str, text: str) -> Member:
    data = text.encode()
    return Member(name, len(data), lambda: iter([data]))


def of_file(name: str, path: Path) -> Member:
    return Member(name, path.stat().st_size, lambda: _chunks(path))


def digest(members: Iterable[Member]) -> str:
    """Of names and contents, in their order."""
    hasher = hashlib.sha256()
    for member in members:
        hasher.update(f"{member.name}\0{member.size}\0".encode())
        for chunk in member.chunks():
            hasher.update(chunk)
    return hasher.hexdigest()


def write(target: BinaryIO, members: list[Member], sign: Callable[[bytes], str], progress: Progress) -> None:
    """A tar of `members`, then SHA256SUMS and what `sign` makes of it."""
    sums, done, total = "", 0, sum(member.size for member in members)
    with tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for member in members:
            reader = _Reader(member.chunks())
            tar.addfile(_header(member.name, member.size), reader)
            sums += f"{reader.sha256}  {member.name}\n"
            done += member.size
            progress(done, total)
        for name, data in ((SUMS, sums.encode()), (SIGNATURE, sign(sums.encode()).encode())):
            tar.addfile(_header(name, len(data)), io.BytesIO(data))


class _Reader(io.RawIOBase):
    """Pieces as a file, hashed while they are read."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""
        self._hasher = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Of all of it; what is left is read now, so that what follows the last byte (a check of the whole) is done too."""
        for _ in self._pieces:
            raise ValueError("a member is longer than it was said to be")
        return self._hasher.hexdigest()

    def read(self, size: int = -1) -> bytes:
        while len(self._rest) < size and (piece := next(self._pieces, b"")):
            self._rest += piece
        data, self._rest = self._rest[:size], self._rest[size:]
        self._hasher.update(data)
        return data


def _header(name: str, length: int) -> tarfile.TarInfo:
    """Nobody's, of no time: the same contents make the same bytes."""
    info = tarfile.TarInfo(name)
    info.size = length
    return info


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
