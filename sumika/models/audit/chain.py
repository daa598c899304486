"""The chain: each row's hash covers all its fields and the hash of the row before it.

Rows are appended in the transaction of the act that they tell of, so neither is there without the other. The one row of
`audit_head` says where the chain ends; writers lock it (SQLite lets only one write anyway), so two can't both follow the
same row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy.exc import IntegrityError

from sumika.models import clock, schema
from sumika.models.actor import UNNAMED, Actor
from sumika.models.audit import canonical
from sumika.models.audit.actions import Action
from sumika.models.errors import SumikaError, quoted

Outcome = Literal["asked", "done", "refused", "failed"]

GENESIS = "0" * 64
"""What the first row has for the hash of a row before it."""

_LONGEST_REASON = 1000
_LONGEST_OBJECT = 255
_LONGEST_ACTOR = 128
_LONGEST_SOURCE = 128
_a = schema.audit
_h = schema.audit_head


@dataclass(frozen=True, slots=True)
class Entry:
    """What is to be told. `details` holds nothing that a user said; `at` is now where it is not given."""

    action: Action
    object: str
    outcome: Outcome = "done"
    reason: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    actor: Actor = UNNAMED
    at: str = ""


@dataclass(frozen=True, slots=True)
class Head:
    """Where the chain ends, and (`floor`, `content_floor`) up to where rows and sealed contents were pruned."""

    seq: int
    hash: str
    floor: int
    content_floor: int


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One row as it is kept; `action` is a string because a later version may know others."""

    seq: int
    at: str
    actor: str
    role: str
    action: str
    object: str
    outcome: str
    reason: str
    details: dict[str, Any]
    prev: str
    hash: str

    def digest(self) -> str:
        """SHA-256 (hex) over the canonical JSON of every field but `hash`. Raises ValueError where there is none."""
        return _digest({name: value for name, value in asdict(self).items() if name != "hash"})


def append(
    connection: Connection,
    action: Action,
    object: str,
    *,
    outcome: Outcome = "done",
    reason: str = "",
    details: Mapping[str, Any] | None = None,
    actor: str | None = None,
) -> int:
    """Tell of an act in its own transaction; the row's sequence number.

    The actor is whoever the transaction belongs to (`Store.write(by=…)`), unless `actor` names somebody else.

    Raises:
        SumikaError: what the store raises; the act must not stand without its row, so let it pass.
    """
    by = connection.get_execution_options().get("sumika_by", UNNAMED)
    if actor is not None and actor != by.name:
        by = Actor(actor)
    return append_many(connection, [Entry(action, object, outcome, reason, details or {}, by)])


def append_many(connection: Connection, entries: Sequence[Entry]) -> int:
    """Append `entries` in order; the last one's sequence number, the first one's being `len(entries) - 1` less."""
    end = head(connection, lock=True)
    seq, prev = end.seq, end.hash
    rows = []
    for entry in entries:
        seq += 1
        row: dict[str, Any] = {
            "seq": seq, "at": entry.at or clock.now(),
            "actor": quoted(entry.actor.name, _LONGEST_ACTOR), "role": entry.actor.role, "action": str(entry.action),
            "object": quoted(entry.object, _LONGEST_OBJECT), "outcome": entry.outcome,
            "reason": quoted(entry.reason, _LONGEST_REASON), "details": _details(entry), "prev": prev,
        }  # fmt: skip
        prev = _digest(row)
        rows.append(row | {"details": canonical.dump(row["details"]).decode(), "hash": prev})
    if rows:
        try:
            connection.execute(insert(_a), rows)
        except IntegrityError as error:
            raise _taken(seq) from error
        connection.execute(update(_h).values(seq=seq, hash=prev))
    return seq


def head(connection: Connection, *, lock: bool = False) -> Head:
    """With `lock`, other writers wait until this transaction ends."""
    query = select(_h.c.seq, _h.c.hash, _h.c.floor, _h.c.content_floor)
    return Head(*connection.execute(query.with_for_update() if lock else query).one())


def read(row: Row[Any]) -> AuditRow:
    """Raises ValueError where `details` is not spelled canonically."""
    details = canonical.load(row.details)
    if not isinstance(details, dict):
        raise ValueError("details is no object")
    return AuditRow(
        row.seq, row.at, row.actor, row.role, row.action, row.object, row.outcome, row.reason, details, row.prev, row.hash
    )


def hash_at(connection: Connection, seq: int) -> str | None:
    """The hash of row `seq`; `GENESIS` before the first, None where there is no such row."""
    if seq == 0:
        return GENESIS
    found: str | None = connection.scalar(select(_a.c.hash).where(_a.c.seq == seq))
    return found


def stored(connection: Connection) -> Iterator[Row[Any]]:
    """Every row in order with its sealed content (`sealed`, None where there is none), a thousand at a time."""
    query = select(_a, schema.audit_contents.c.sealed).join_from(_a, schema.audit_contents, isouter=True).order_by(_a.c.seq)
    return iter(connection.execute(query.execution_options(yield_per=1000)))


def _details(entry: Entry) -> dict[str, Any]:
    """With where it was done from, which is part of what the hash covers."""
    source = {"source": quoted(entry.actor.source, _LONGEST_SOURCE)} if entry.actor.source else {}
    return {**entry.details, **source}


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical.dump(fields)).hexdigest()


def _taken(seq: int) -> SumikaError:
    return SumikaError(
        "audit_broken",
        f"The audit log already has a row {seq}, past where it should end, so nothing may be done. Somebody changed the database: run 'sumika audit verify'.",
        f"監査ログの末尾より先に行 {seq} が存在するため、操作を受け付けません。データベースが変更されています。sumika audit verify を実行してください。",
        status=503,
    )
