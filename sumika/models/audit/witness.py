"""The witness: after each write that told of something, it signs how far the log has come, and tells it outside."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from sumika.models import clock, locks
from sumika.models.audit import chain, checkpoints, sinks
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.store import Store

log = logging.getLogger(__name__)


class Witness:
    """Signs for one home. Any process may; the file's lock puts them in turn. `outside`: where each checkpoint goes too (`sinks`)."""

    def __init__(self, home: Home, outside: str | None = None) -> None:
        self._home = home
        self._outside = outside
        self._sent = b""

    def look(self, store: Store) -> None:
        """Sign the log's end, if it moved since the last checkpoint.

        What can't be signed now (disk full, no key) is told in the log of this process and signed at the next look: the
        act itself is done and its row is kept. A log that no longer holds what was signed is not signed again.
        """
        try:
            with locked(self._home), store.read() as connection:
                line = self._signed(connection)
        except OSError as error:
            return log.error("the audit log's checkpoint could not be written: %s", error)
        except SumikaError as error:
            return log.error("the audit log's checkpoint could not be written: %s", error.en)
        if line is not None:
            self._send(line)

    def _signed(self, connection: Connection) -> bytes | None:
        """The newest line, which vouches for the log's end; None where nothing may be signed."""
        end, last = chain.head(connection), checkpoints.last(self._home)
        if not checkpoints.reaches_last(self._home):
            log.error(
                "the audit log's checkpoints no longer hold what was signed last; nothing more is signed. Run 'sumika audit verify'."
            )
            return None
        if last is not None and end.seq == last.seq and end.hash == last.hash:
            return checkpoints.last_line(self._home)
        if last is not None and not self._continues(last, end, chain.hash_at(connection, last.seq)):
            return None
        if end.seq == 0:
            return None
        return checkpoints.add(self._home, "head", end.seq, end.hash, end.seq - end.floor, clock.now())

    def _send(self, line: bytes) -> None:
        """What can't be told now is told at the next look: the newest line vouches for all before it."""
        if self._outside is None or line == self._sent:
            return
        try:
            sinks.send(self._outside, line)
        except OSError as error:
            return log.error("the audit log's witness %s could not be told of a checkpoint: %s", self._outside, error)
        self._sent = line

    def _continues(self, last: checkpoints.Checkpoint, end: chain.Head, now: str | None) -> bool:
        if now == last.hash or (now is None and last.seq <= end.floor):
            return True
        log.error(
            "the audit log no longer holds row %d as it was signed at %s; nothing more is signed. Run 'sumika audit verify'.",
            last.seq,
            last.at,
        )
        return False


@contextmanager
def locked(home: Home, *, shared: bool = False) -> Iterator[None]:
    """While inside nobody else appends to the file of checkpoints, nor prunes."""
    with locks.held(home.root / "audit.lock", shared=shared):
        yield
