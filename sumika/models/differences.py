"""What differs between a version's files and its manifest: which file, and which of its bytes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sumika.models import manifest
from sumika.models.artifacts import Progress
from sumika.models.errors import Language, quoted
from sumika.models.manifest import MANIFEST, PART_BYTES, FileEntry, Hasher

_PIECE = 8 * 2**20
_SHOWN = 8

Kind = Literal["missing", "added", "shorter", "longer", "changed", "unreadable"]
Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Difference:
    """One file that is not as imported. `ranges`: first and last byte of each run of parts that differ; None where it
    can't be known. `was` and `now` are its sizes in bytes."""

    file: str
    kind: Kind
    ranges: tuple[Range, ...] | None = None
    was: int | None = None
    now: int | None = None
    why: str = ""

    def as_dict(self) -> dict[str, Any]:
        ranges = None if self.ranges is None else [list(r) for r in self.ranges]
        return {
            "file": self.file, "kind": self.kind, "ranges": ranges, "bytes_was": self.was, "bytes_now": self.now,
            "text": self.text("en"),
        }  # fmt: skip

    def text(self, language: Language) -> str:
        """One line for a person."""
        return f"{quoted(self.file)}: {self._ja() if language == 'ja' else self._en()}"

    def _en(self) -> str:
        where = _where(self.ranges, "bytes {} differ", "where it differs is not known")
        match self.kind:
            case "missing":
                return "missing"
            case "added":
                return "not in the manifest"
            case "unreadable":
                return f"can't be read from byte {self.now:,} on ({self.why}); the disk may be failing"
            case "shorter":
                return f"{self.now:,} of {self.was:,} bytes are there" + (f"; {where}" if self.ranges else "")
            case "longer":
                return f"{self.now:,} bytes instead of {self.was:,}; {where or 'all before its old end is as imported'}"
            case "changed":
                return f"changed: {where}"

    def _ja(self) -> str:
        where = _where(self.ranges, "{} バイト目が異なります", "異なる場所は不明です")
        match self.kind:
            case "missing":
                return "ありません"
            case "added":
                return "マニフェストにないファイルです"
            case "unreadable":
                return f"{self.now:,} バイト目から読めません({self.why})。ディスクが故障しているおそれがあります"
            case "shorter":
                return f"{self.was:,} バイトのうち {self.now:,} バイトしかありません" + (f"。{where}" if self.ranges else "")
            case "longer":
                return f"{self.was:,} バイトのはずが {self.now:,} バイトあります。{where or '元の末尾までは取り込み時のままです'}"
            case "changed":
                return f"変更されています: {where}"


def find(folder: Path, digest: str, progress: Progress | None = None) -> list[Difference]:
    """Hash every file again and compare; empty where all is as imported. `digest` is what the registry knows of the version.

    Raises:
        SumikaError: `broken_artifact`, when the manifest can't be read.
    """
    files = manifest.read(folder)
    found = [] if manifest.digest_of(files) == digest else [Difference(MANIFEST, "changed")]
    total, done = sum(entry.bytes for entry in files.values()), 0
    for name, entry in files.items():
        base = done
        found += of_file(folder / name, entry, lambda n, base=base: progress and progress(base + n, total))  # type: ignore[misc]
        done += entry.bytes
    extra = {path.name for path in folder.iterdir()} - set(files) - {MANIFEST}
    return found + [Difference(name, "added") for name in sorted(extra)]


def of_file(path: Path, entry: FileEntry, progress: Callable[[int], object] = lambda _: None) -> list[Difference]:
    """Nothing, or the one difference of a file that the manifest names."""
    if not path.is_file() or path.is_symlink():
        return [Difference(path.name, "missing", was=entry.bytes)]
    hasher = Hasher()
    try:
        with path.open("rb") as reader:
            while piece := reader.read(min(_PIECE, entry.bytes - hasher.bytes)):
                hasher.update(piece)
                progress(hasher.bytes)
            size = os.fstat(reader.fileno()).st_size
    except OSError as error:
        return [Difference(path.name, "unreadable", was=entry.bytes, now=hasher.bytes, why=error.strerror or str(error))]
    now = hasher.entry()
    if now.bytes < entry.bytes:
        return [Difference(path.name, "shorter", _differing(entry, now), entry.bytes, size)]
    ranges = () if now.sha256 == entry.sha256 else _differing(entry, now)
    if size > entry.bytes:
        return [Difference(path.name, "longer", ranges, entry.bytes, size)]
    return [Difference(path.name, "changed", ranges, entry.bytes, size)] if ranges != () else []


def _differing(was: FileEntry, now: FileEntry) -> tuple[Range, ...] | None:
    """The parts that differ, those beside each other as one; a part that was cut short can't be compared."""
    if was.bytes <= PART_BYTES:
        return ((0, was.bytes - 1),) if now.bytes == was.bytes else None
    if not was.parts:
        return None
    whole = len(was.parts) if now.bytes == was.bytes else now.bytes // PART_BYTES
    parts = now.parts or (now.sha256,)
    ranges: list[Range] = []
    for index in range(whole):
        if parts[index] == was.parts[index]:
            continue
        first, last = index * PART_BYTES, min((index + 1) * PART_BYTES, was.bytes) - 1
        if ranges and ranges[-1][1] + 1 == first:
            first = ranges.pop()[0]
        ranges.append((first, last))
    # The whole is not what it was and every part is: the manifest's own hashes are wrong, and tell nothing.
    return tuple(ranges) or (None if now.bytes == was.bytes else ())


def _where(ranges: tuple[Range, ...] | None, differ: str, unknown: str) -> str:
    if ranges is None:
        return unknown
    shown = ", ".join(f"{first:,}–{last:,}" for first, last in ranges[:_SHOWN])
    more = f", … ({len(ranges)})" if len(ranges) > _SHOWN else ""
    return differ.format(shown + more) if ranges else ""
