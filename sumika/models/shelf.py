"""The bytes of files on disk: whole or not there, private to this user, under names that we made."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Collection
from pathlib import Path

from sumika.models.errors import SumikaError
from sumika.models.home import sync_folder

# What uploads leave free for everything else on the disk, the database first.
RESERVE_BYTES = 256 * 2**20
_DRAFTS = ".drafts"
_SUFFIX = ".jsonl"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Draft:
    """A file while it is written. `settle` gives it its name; `discard` removes it, and does nothing after that."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / _DRAFTS / secrets.token_hex(16)
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        self._fd: int | None = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._hash = hashlib.sha256()
        self.bytes = 0

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        """Raises SumikaError `disk_full`."""
        assert self._fd is not None  # noqa: S101 - nobody writes to what has settled
        try:
            if shutil.disk_usage(self._folder).free < RESERVE_BYTES + len(data):
                raise OSError(errno.ENOSPC, "the reserve is reached")
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise _told(error) from error
        self._hash.update(data)
        self.bytes += len(data)

    def settle(self, file_id: str) -> None:
        """Make it durable under its name.

        Raises:
            SumikaError: `disk_full`.
        """
        assert self._fd is not None  # noqa: S101
        try:
            os.fsync(self._fd)
            os.rename(self._path, self._folder / f"{file_id}{_SUFFIX}")
            sync_folder(self._folder)
        except OSError as error:
            raise _told(error) from error
        self._close()

    def discard(self) -> None:
        if self._fd is not None:
            self._path.unlink(missing_ok=True)
            self._close()

    def _close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class Shelf:
    """All files of one home."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self) -> Draft:
        """Raises SumikaError `disk_full`."""
        try:
            return Draft(self._folder)
        except OSError as error:
            raise _told(error) from error

    def path(self, file_id: str) -> Path:
        """Of an id that the store knows; nothing that a client sends comes here before it was found there."""
        return self._folder / f"{file_id}{_SUFFIX}"

    def drop(self, file_id: str) -> None:
        self.path(file_id).unlink(missing_ok=True)

    def sweep(self, known: Collection[str], older_than_s: float) -> int:
        """Remove what was begun and never finished, and files that no row names: how many."""
        before, gone = time.time() - older_than_s, 0
        for path in [*self._folder.glob(f"*{_SUFFIX}"), *(self._folder / _DRAFTS).glob("*")]:
            if path.name.removesuffix(_SUFFIX) not in known and path.stat().st_mtime < before:
                path.unlink(missing_ok=True)
                gone += 1
        return gone


def _told(error: OSError) -> Exception:
    if error.errno not in _FULL:
        return error
    return SumikaError(
        "disk_full",
        "The server's disk is full; nothing was kept. Delete files that you no longer need, or tell your administrator.",
        "サーバーのディスクがいっぱいのため、保存できませんでした。不要なファイルを削除するか、管理者に連絡してください。",
        status=507,
    )
