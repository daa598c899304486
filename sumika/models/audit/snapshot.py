"""One consistent look at the log: its checkpoints, its end and its rows, whatever is appended or pruned meanwhile."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection

from sumika.models.audit import chain, checkpoints
from sumika.models.audit.chain import AuditRow, Head
from sumika.models.audit.witness import locked
from sumika.models.home import Home
from sumika.models.store import LONG_STATEMENT_S, Store


@dataclass(frozen=True, slots=True)
class Found:
    """A row as it was found: `row` is None where it can't be read as one."""

    seq: int
    row: AuditRow | None
    sealed: bytes | None = None

    def content_fits(self, content_floor: int) -> bool:
        """Whether the sealed content is the one that the row names, or was pruned."""
        named = self.row.details.get("sealed") if self.row is not None else None
        if self.sealed is None:
            return named is None or self.seq <= content_floor
        return bool(named == hashlib.sha256(self.sealed).hexdigest())


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Good while `opened` is; `lines` are the file of checkpoints, and `complete` whether it still holds the one that was signed last."""

    connection: Connection
    lines: list[bytes]
    head: Head
    complete: bool

    def rows(self) -> Iterator[Found]:
        for row in chain.stored(self.connection):
            try:
                yield Found(row.seq, chain.read(row), row.sealed)
            except (ValueError, TypeError):
                yield Found(row.seq if isinstance(row.seq, int) else 0, None, None)


@contextmanager
def opened(store: Store, home: Home) -> Iterator[Snapshot]:
    """The checkpoints are read first, so that none of them speaks of a row that is not seen yet."""
    with ExitStack() as lock, store.read(statement_s=LONG_STATEMENT_S) as connection:
        lock.enter_context(locked(home, shared=True))
        lines, complete = checkpoints.read(home), checkpoints.reaches_last(home)
        snapshot = Snapshot(connection, lines, chain.head(connection), complete)
        lock.close()
        yield snapshot
