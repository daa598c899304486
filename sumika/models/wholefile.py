"""A large file for people to carry away: written beside its place, and there only when whole."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from sumika.models.errors import SumikaError, not_found, quoted
from sumika.models.home import sync_folder

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextmanager
def written(file: Path, needed: int, *, force: bool) -> Iterator[BinaryIO]:
    """What the block writes is at `file` behind it, synced; or, where anything fails, nothing is. `needed`: about how many bytes.

    Raises:
        SumikaError: `not_found`, for its folder; `exists`, without `force`; `disk_full`, before or while it is written.
    """
    _check(file, needed, force=force)
    fd, temp = tempfile.mkstemp(dir=file.parent, prefix=f".{file.stem[:32]}.", suffix=".part")
    try:
        with open(fd, "wb") as target:
            yield target
            target.flush()
            os.fsync(target.fileno())
        if not force and file.exists():
            raise _exists(file)
        os.replace(temp, file)
        sync_folder(file.parent)
    except BaseException as error:
        with suppress(FileNotFoundError):
            os.unlink(temp)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise _disk_full(file, needed, error.strerror) from error
        raise


def _check(file: Path, needed: int, *, force: bool) -> None:
    if not file.parent.is_dir():
        raise not_found(
            "folder",
            "フォルダー",
            str(file.parent),
            "Make it, or mount the disk.",
            "作成するか、ディスクをマウントしてください。",
        )
    if os.path.lexists(file) and not (force and file.is_file()):
        raise _exists(file)
    if shutil.disk_usage(file.parent).free < needed:
        raise _disk_full(file, needed)


def _exists(file: Path) -> SumikaError:
    return SumikaError(
        "exists",
        f"'{quoted(str(file))}' is already there. Choose another name, or replace the file with --force.",
        f"「{quoted(str(file))}」はすでにあります。別の名前にするか、--force で置き換えてください。",
        status=409,
    )


def _disk_full(file: Path, needed: int, said: str | None = None) -> SumikaError:
    free = shutil.disk_usage(file.parent).free
    en, ja = (f" ({said})", f"({said})") if said else ("", "")
    return SumikaError(
        "disk_full",
        f"It needs {needed / 2**30:.2f} GiB beside {file} and {free / 2**30:.2f} GiB are free{en}. Make room, or use a disk that takes files of this size (FAT32 takes 4 GiB).",
        f"{needed / 2**30:.2f} GiB 必要ですが、{file} の場所の空きは {free / 2**30:.2f} GiB です{ja}。空きを作るか、この大きさのファイルを置けるディスクを使ってください(FAT32は4 GiBまで)。",
        status=507,
    )
