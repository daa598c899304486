"""One supervisor at a time for one home: a lock that the kernel gives back when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sumika.models.errors import SumikaError


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold `path` locked.

    Raises:
        SumikaError: `already_running`, when another process holds it.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SumikaError(
                "already_running",
                f"A supervisor already runs for this home ({path}). Use it, or end it first ('sumika status' shows it).",
                f"このホームの supervisor はすでに動いています({path})。そのまま使うか、先に終了してください。",
                status=409,
            ) from None
        yield
    finally:
        os.close(fd)
