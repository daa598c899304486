"""One signed file that carries a version to a machine without a network.

It is a plain, uncompressed tar: `header.json`, `header.sig`, then the version's files in the header's order. Weights hardly
compress, and without compression there is no bomb: an archive holds as many bytes as it has. The header lists every
name, size and SHA-256 (all that `manifest.json` says, which the importer writes anew), and its signature is checked first.
From then on each of tar's own blocks is known beforehand to the last bit. The reader compares it with what is there, and
interprets nothing: no path, link, device, long name, extended header, other size or order, duplicate, extra or missing
member can say anything to it. `tar -tvf` and `tar -xf` read such a file as any other.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sumika.models import archive_header, artifacts, signing
from sumika.models.archive_header import HEADER, LONGEST_HEADER, SIGNATURE, Header, Listed, bad_archive
from sumika.models.errors import quoted
from sumika.models.home import Home
from sumika.models.manifest import FileEntry, Hasher

SUFFIX = ".sumika"
_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)
_CHUNK = 2**20


@dataclass(frozen=True, slots=True)
class Opened:
    """An archive whose signature holds; its files are still to be read, and are not believed before their hashes fit."""

    header: Header
    signer: str
    """The fingerprint of the trusted key that signed it."""
    _stream: BinaryIO

    def extract(self, folder: Path, progress: artifacts.Progress | None = None) -> dict[str, FileEntry]:
        """Write every file into the empty `folder`, synced; the entries for its manifest.

        Raises:
            SumikaError: `bad_archive`, for anything but the listed files with the listed hashes.
            OSError: as the disk answers.
        """
        entries, done = {}, 0
        for listed in self.header.files:
            _expect(self._stream, _block(listed.name, listed.bytes), listed.name)
            hasher = Hasher()
            with (folder / listed.name).open("xb") as target:
                for chunk in _file(self._stream, listed, hasher):
                    target.write(chunk)
                    done += len(chunk)
                    if progress:
                        progress(done, self.header.total)
                target.flush()
                os.fsync(target.fileno())
            _expect(self._stream, _padding(listed.bytes), listed.name)
            entries[listed.name] = hasher.entry()
        _expect(self._stream, _END, "the end")
        if self._stream.read(1):
            raise bad_archive("something follows its end", "末尾に余分なデータがあります")
        return entries


@contextmanager
def opened(file: Path, home: Home) -> Iterator[Opened]:
    """Read and check what stands before the files.

    Raises:
        SumikaError: `bad_archive`; `bad_signature`; `untrusted_key`; `bad_key`.
    """
    if not file.is_file():
        raise bad_archive(f"there is no file '{quoted(str(file))}'", f"ファイル「{quoted(str(file))}」がありません")
    with file.open("rb") as stream:
        raw = _read(stream, _header_size(stream), HEADER)
        _expect(stream, _padding(len(raw)), HEADER)
        _expect(stream, _block(SIGNATURE, signing.SIGNATURE_BYTES), SIGNATURE)
        signature = _read(stream, signing.SIGNATURE_BYTES, SIGNATURE)
        _expect(stream, _padding(len(signature)), SIGNATURE)
        signer = signing.check(home, raw, signature)
        header = archive_header.read_header(raw)
        whole, there = size(header), os.fstat(stream.fileno()).st_size
        if there != whole:
            raise bad_archive(
                f"it is {there:,} bytes long instead of {whole:,}", f"サイズが {whole:,} バイトではなく {there:,} バイトです"
            )
        yield Opened(header, signer, stream)


def front(home: Home, header: Header) -> bytes:
    """Everything before the files: the header and its signature, as tar members."""
    raw = header.to_bytes()
    return _member(HEADER, raw) + _member(SIGNATURE, signing.sign(home, raw))


def file_parts(listed: Listed, stream: BinaryIO) -> Iterator[bytes]:
    """One file as a tar member, read from `stream`.

    Raises:
        SumikaError: `bad_archive`, at the end, when the file is not as listed.
    """
    yield _block(listed.name, listed.bytes)
    yield from _file(stream, listed, Hasher())
    yield _padding(listed.bytes)


def end() -> bytes:
    return _END


def size(header: Header) -> int:
    """Bytes of the whole archive."""
    lengths = [len(header.to_bytes()), signing.SIGNATURE_BYTES, *(listed.bytes for listed in header.files)]
    return sum(_BLOCK + length + len(_padding(length)) for length in lengths) + len(_END)


def _file(stream: BinaryIO, listed: Listed, hasher: Hasher) -> Iterator[bytes]:
    while left := listed.bytes - hasher.bytes:
        chunk = stream.read(min(left, _CHUNK))
        if not chunk:
            break
        hasher.update(chunk)
        yield chunk
    if hasher.bytes != listed.bytes or hasher.sha256 != listed.sha256:
        raise bad_archive(f"{quoted(listed.name)} is not as it was signed", f"{quoted(listed.name)} が署名された内容と異なります")


def _header_size(stream: BinaryIO) -> int:
    """The one size that is not known beforehand."""
    block = stream.read(_BLOCK)
    try:
        told = tarfile.TarInfo.frombuf(block, "utf-8", "strict").size
        if 0 < told <= LONGEST_HEADER and block == _block(HEADER, told):
            return told
    except (tarfile.TarError, ValueError):
        pass
    raise bad_archive("it does not begin as an archive by Sumika does", "Sumikaのアーカイブではありません(先頭が異なります)")


def _read(stream: BinaryIO, length: int, what: str) -> bytes:
    data = stream.read(length)
    if len(data) != length:
        raise bad_archive(f"it ends within {what}", f"{what} の途中で終わっています")
    return data


def _expect(stream: BinaryIO, wanted: bytes, what: str) -> None:
    if stream.read(len(wanted)) != wanted:
        raise bad_archive(f"it is not laid out as signed, at {quoted(what)}", f"構成が署名された内容と異なります({quoted(what)})")


def _member(name: str, data: bytes) -> bytes:
    return _block(name, len(data)) + data + _padding(len(data))


def _block(name: str, length: int) -> bytes:
    """The one way in which we write a member: a regular file of nobody's. Above 8 GiB the size is as GNU tar writes it."""
    info = tarfile.TarInfo(name)
    info.size = length
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")


def _padding(length: int) -> bytes:
    return bytes(-length % _BLOCK)
