"""Does the log still say what was written? One pass over its rows, held against the checkpoints outside the database, what a witness was
told, and what the tables say now."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from sumika.models import clock
from sumika.models.audit import checkpoints, snapshot, state, witnessed
from sumika.models.audit.actions import Action
from sumika.models.audit.chain import GENESIS, AuditRow, Head
from sumika.models.audit.checkpoints import Checkpoints
from sumika.models.audit.findings import BadRow, Findings, Kind, Pruned, Witnessed
from sumika.models.audit.snapshot import Found
from sumika.models.audit.state import Replay
from sumika.models.home import Home
from sumika.models.store import Store


def verify(store: Store, home: Home, witness: Path | None = None) -> Findings:
    """Verify the log of `store` against the checkpoints of `home`, the file of a witness, and the tables.

    Raises:
        SumikaError: what the store raises; `bad_key`, for a key file that is none; OSError: where the witness can't be read.
    """
    with snapshot.opened(store, home) as seen:
        signed, replay = checkpoints.parse(seen.lines, checkpoints.trusted(home)), Replay(whole=seen.head.floor == 0)
        found = check(seen.rows(), signed, seen.head, witnessed.read(witness) if witness else None, replay)
        if found.bad is None:
            found = replace(found, adopted=replay.adopted, unexplained=replay.differences(state.of(seen.connection)))
        if found.bad_checkpoint is None and not seen.complete:
            found = replace(found, bad_checkpoint=len(seen.lines) + 1)
        return found


def check(
    rows: Iterable[Found], signed: Checkpoints, head: Head, witness: Witnessed | None = None, replay: Replay | None = None
) -> Findings:
    """Verify `rows`, in order of their sequence, up to the first bad one."""
    looked = _Pass(signed, head, witness or Witnessed(), replay)
    bad = next((bad for found in rows if (bad := looked.bad(found)) is not None), None) or looked.bad_end()
    return Findings(
        looked.start + 1, looked.last, looked.rows, looked.contents, len(signed.lines),
        max(0, looked.last - looked.signed_to), looked.late_s, tuple(sorted(signed.signers)), tuple(looked.pruned), bad, signed.bad,
        witness.lines if witness else None, witness.last if witness else 0,
    )  # fmt: skip


class _Pass:
    """The state of one walk along the chain: the row before, and what was told on the way."""

    def __init__(self, signed: Checkpoints, head: Head, witness: Witnessed, replay: Replay | None) -> None:
        self._head = head
        self._witness = witness
        self._replay = replay
        self._hashes = {line.seq: line.hash for line in reversed(signed.lines)}  # of several the oldest counts
        self._floors = {0} | {line.seq for line in signed.lines if line.kind == "floor"}
        self._signed_at = {line.seq: line.at for line in reversed(signed.lines) if line.kind == "head"}
        self.signed_to = max(self._hashes, default=0)
        self.start = max((floor for floor in self._floors if floor <= head.floor), default=0)
        self.last = self._vouched = self.start
        self._prev = self._hashes.get(self.start, GENESIS)
        self._unsigned_since: str | None = None
        self.rows = self.contents = self.late_s = 0
        self.pruned: list[Pruned] = []

    def bad(self, found: Found) -> BadRow | None:
        """What is wrong with the next row, if anything is."""
        if self.rows == 0 and (misplaced := self._begin(found.seq)) is not None:
            return misplaced
        row = found.row
        if found.seq != self.last + 1:
            return _bad(self.last + 1, "missing")
        if row is None or not _whole(row):
            return _bad(found.seq, "changed")
        vouched = {self._hashes.get(row.seq, row.hash), *self._witness.hashes.get(row.seq, ())}
        if row.prev != self._prev or vouched != {row.hash}:
            return BadRow(self._vouched + 1, "rewritten", row.seq)
        if not found.content_fits(self._head.content_floor):
            return _bad(row.seq, "content")
        self._pass(row, found.sealed is not None)
        return None

    def bad_end(self) -> BadRow | None:
        """What is wrong once the rows are at their end."""
        if max(self.signed_to, self._head.seq, self._witness.last) > self.last:
            return _bad(self.last + 1, "missing")
        if (self._head.seq, self._head.hash) != (self.last, self._prev):
            return _bad(self.last, "head")
        if self.start and not any(one.last == self.start and not one.contents_only for one in self.pruned):
            return _bad(max(floor for floor in self._floors if floor < self.start) + 1, "missing")
        told = max((one.last for one in self.pruned), default=0)
        return _bad(told + 1, "content") if self._head.content_floor > told else None

    def _begin(self, seq: int) -> BadRow | None:
        """Rows begin at 1, or right after a floor that was signed."""
        if self._head.floor in self._floors and seq <= self._head.floor:
            return _bad(seq, "extra")
        if seq - 1 in self._floors:
            self.start = self.last = self._vouched = seq - 1
            self._prev = self._hashes.get(self.start, GENESIS)
        return None

    def _pass(self, row: AuditRow, has_content: bool) -> None:
        self.last, self._prev = row.seq, row.hash
        self.rows += 1
        self.contents += has_content
        if self._replay is not None:
            self._replay.take(row)
        if row.seq in self._hashes or row.seq in self._witness.hashes:
            self._vouched = row.seq
        self._unsigned_since = self._unsigned_since or row.at
        if (at := self._signed_at.get(row.seq)) is not None:
            late = clock.parse(at) - clock.parse(self._unsigned_since)
            self.late_s, self._unsigned_since = max(self.late_s, int(late.total_seconds())), None
        if row.action == Action.AUDIT_PRUNE and row.outcome == "done" and type(last := row.details.get("last")) is int:
            told = row.details
            self.pruned.append(
                Pruned(last, told.get("rows"), told.get("before"), row.at, row.actor, told.get("contents_only") is True)
            )


def _whole(row: AuditRow) -> bool:
    try:
        return row.digest() == row.hash
    except ValueError:
        return False


def _bad(seq: int, kind: Kind) -> BadRow:
    return BadRow(seq, kind, seq)
