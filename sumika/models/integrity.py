"""What is served is what was imported: names and sizes at once, hashes where they were not found right since the file last changed."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from threading import Event

from sumika.models import differences, manifest
from sumika.models.differences import Difference
from sumika.models.errors import SumikaError
from sumika.models.manifest import MANIFEST, FileEntry
from sumika.models.registry import Version

# Up to so many bytes of a version are hashed before an engine reads them, which takes a second; larger ones beside its start.
HASHED_FIRST = 2**30
# Of a version with more: everything but weights is this small.
_SMALL = 64 * 2**20

Identity = tuple[int, int, int, int, int]
"""Device, inode, size, and when content and inode last changed (ns): the same as before, the bytes are too, as far as programs wrote them."""


class _Stopped(Exception):
    """Nobody waits for the hashes any more."""


class Integrity:
    """The files of one version against its manifest. Hashes that were right are not made again while the file stays the same one.

    A disk that returns other bytes than were written changes no time stamp: that is found by the hashes of the next process,
    and by `models verify`.
    """

    def __init__(self, version: Version, folder: Path) -> None:
        self._version, self._folder = version, folder
        self._found_right: dict[str, Identity] = {}
        # Of several engines that start with the same base, one hashes and the others wait.
        self._turn = threading.Lock()

    @property
    def size(self) -> int:
        return sum(entry.bytes for entry in self._files().values())

    def check_names(self) -> None:
        """Every file of the manifest is there, a regular file of its size, and none besides.

        Raises:
            SumikaError: `broken_artifact`, naming the files.
        """
        files = self._files()
        there = {path.name: path for path in _entries(self._folder)}
        found = [Difference(name, "missing", was=entry.bytes) for name, entry in files.items() if name not in there]
        found += [Difference(name, "added") for name in sorted(there.keys() - files.keys() - {MANIFEST})]
        for name in sorted(there.keys() & files.keys()):
            status, entry = there[name].lstat(), files[name]
            if not stat.S_ISREG(status.st_mode):
                found.append(Difference(name, "missing", was=entry.bytes))  # a link or a folder is in its place
            elif status.st_size != entry.bytes:
                kind: differences.Kind = "shorter" if status.st_size < entry.bytes else "longer"
                found.append(Difference(name, kind, None, entry.bytes, status.st_size))
        self._stop(found)

    def check_small(self) -> None:
        """Hash what an engine reads first: all of a version up to `HASHED_FIRST`, everything but the weights of a larger one.

        Raises:
            SumikaError: `broken_artifact`.
        """
        files = self._files()
        whole = self.size <= HASHED_FIRST
        self._check(name for name, entry in files.items() if whole or entry.bytes <= _SMALL)

    def check_all(self, stop: Event | None = None) -> None:
        """Hash every file that was not found right before; what is left once `stop` is set is left unknown.

        Raises:
            SumikaError: `broken_artifact`.
        """
        with suppress(_Stopped):
            self._check(self._files(), stop)

    def check_same(self) -> None:
        """No file was replaced or written to since it was found right.

        Raises:
            SumikaError: `broken_artifact`.
        """
        self.check_names()
        changed = [name for name, was in list(self._found_right.items()) if _identity(self._folder / name) != was]
        self._check(changed)

    def _check(self, names: Iterable[str], stop: Event | None = None) -> None:
        files = self._files()
        with self._turn:
            found = [one for name in names for one in self._of_file(name, files[name], stop)]
        self._stop(found)

    def _of_file(self, name: str, entry: FileEntry, stop: Event | None) -> list[Difference]:
        def look(_: int) -> None:
            if stop is not None and stop.is_set():
                raise _Stopped

        path = self._folder / name
        before = _identity(path)
        if before is not None and self._found_right.get(name) == before:
            return []
        self._found_right.pop(name, None)
        different = differences.of_file(path, entry, look)
        if not different and before is not None and _identity(path) == before:
            self._found_right[name] = before
        return different

    def _files(self) -> dict[str, FileEntry]:
        files = manifest.read(self._folder)
        if manifest.digest_of(files) != self._version.digest:
            self._stop([Difference(MANIFEST, "changed")])
        return files

    def _stop(self, found: list[Difference]) -> None:
        if found:
            raise broken(self._version, found)


def broken(version: Version, found: list[Difference]) -> SumikaError:
    en, ja = ("; ".join(one.text(language) for one in found[:5]) for language in ("en", "ja"))
    return SumikaError(
        "broken_artifact",
        f"The files of {version.ref} are not those that were imported, so they are not served: {en}. 'sumika models verify {version.ref}' tells more; restore them from a backup, or import the model again and deploy that.",
        f"{version.ref} のファイルが取り込み時と異なるため、配備しません: {ja}。詳細は sumika models verify {version.ref} で確認し、バックアップから復元するか、取り込み直して配備してください。",
        status=409,
    )


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _identity(path: Path) -> Identity | None:
    try:
        status = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
