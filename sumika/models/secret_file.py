"""A secret that all processes of a home share: made by the first that needs it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

from sumika.models.home import write_atomically


def read_or_create(path: Path, fresh: Callable[[], bytes]) -> bytes:
    """The secret in `path`. Made (0600) where it is missing; of processes that start at once, one's is kept."""
    if not path.exists():
        mine = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        write_atomically(mine, fresh(), mode=0o600)
        try:
            path.hardlink_to(mine)
        except FileExistsError:
            pass
        finally:
            mine.unlink()
    return path.read_bytes()
