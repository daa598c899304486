"""The manifest of a version's folder: every file with its size and hashes, so that what changed later can be named.

`digest` and each file's `sha256` say whether a version is as it was imported; the hashes of its parts say where it is not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sumika.models.errors import SumikaError
from sumika.models.home import write_atomically

MANIFEST = "manifest.json"
# A part's hash takes 67 bytes of the manifest: 140 GB of weights need 8,800, 590 kB. Smaller parts would say little more
# of a disk that goes bad, and larger ones make a copy of the damaged range long.
PART_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class FileEntry:
    """`parts`: SHA-256 of each `PART_BYTES` of the file in turn, the last one shorter; empty for a file of one part,
    and where they are not known (imported before they were kept)."""

    bytes: int
    sha256: str
    parts: tuple[str, ...] = ()


class Hasher:
    """Makes a `FileEntry` of bytes that come in pieces of any size, in one pass."""

    def __init__(self) -> None:
        self._whole, self._part = hashlib.sha256(), hashlib.sha256()
        self._parts: list[str] = []
        self.bytes = 0

    def update(self, data: bytes) -> None:
        rest = memoryview(data)
        self._whole.update(rest)
        while rest:
            if self.bytes and self.bytes % PART_BYTES == 0:
                self._end_part()
            taken = rest[: PART_BYTES - self.bytes % PART_BYTES]
            self._part.update(taken)
            self.bytes += len(taken)
            rest = rest[len(taken) :]

    @property
    def sha256(self) -> str:
        return self._whole.hexdigest()

    def entry(self) -> FileEntry:
        parts = (*self._parts, self._part.hexdigest()) if self._parts else ()
        return FileEntry(self.bytes, self.sha256, parts)

    def _end_part(self) -> None:
        self._parts.append(self._part.hexdigest())
        self._part = hashlib.sha256()


def digest_of(files: Mapping[str, FileEntry]) -> str:
    """SHA-256 over the sorted names and hashes: one figure for the whole folder."""
    lines = "".join(f"{name}\0{entry.sha256}\n" for name, entry in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def write(folder: Path, files: Mapping[str, FileEntry]) -> None:
    """Write, or replace, the manifest of `folder` in one step."""
    value = {
        "format": 1,
        "digest": digest_of(files),
        "part_bytes": PART_BYTES,
        "files": {name: _fields(entry) for name, entry in files.items()},
    }
    write_atomically(folder / MANIFEST, json.dumps(value, indent=1, sort_keys=True).encode() + b"\n")


def read(folder: Path) -> dict[str, FileEntry]:
    """Raises SumikaError `broken_artifact` when the manifest is missing or unreadable."""
    try:
        value = json.loads((folder / MANIFEST).read_bytes())
        parted = value.get("part_bytes") == PART_BYTES
        return {
            name: FileEntry(entry["bytes"], entry["sha256"], tuple(entry.get("parts", ())) if parted else ())
            for name, entry in value["files"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SumikaError(
            "broken_artifact",
            f"The manifest in {folder} can't be read ({error}). Import the model again.",
            f"{folder} のマニフェストを読めません({error})。モデルを取り込み直してください。",
            status=500,
        ) from None


def _fields(entry: FileEntry) -> dict[str, object]:
    parts = {"parts": entry.parts} if entry.parts else {}
    return {"bytes": entry.bytes, "sha256": entry.sha256, **parts}
