"""What a home from an older release lacks for its log to be held together with the rest: taken once, as it is at the upgrade."""

from __future__ import annotations

from sqlalchemy import Connection

from sumika.models.audit import checkpoints, state
from sumika.models.home import Home

_SINCE = "0010"
"""The schema of the first release that tells of keys' secrets, and signs which checkpoint is the last."""


def adopt(connection: Connection, home: Home, before: str | None) -> None:
    """In the transaction of an upgrade from the schema `before`; None: from nothing."""
    if before is not None and before < _SINCE:
        checkpoints.keep_last(home)
        state.tell(connection, f"upgrade from schema {before}")
