"""Keys, aliases and versions as the log tells of them, to be held against the tables: what was put in or changed there past Sumika has
nothing in the log that explains it.

`Replay` takes the log's rows in order. What lies below the log's floor, or before the log began, is known from `audit.state` rows, which say
what there was: pruning appends them, and so does the upgrade to the release that first had them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, select

from sumika.models import clock, schema
from sumika.models.actor import SYSTEM
from sumika.models.audit.actions import Action
from sumika.models.audit.chain import AuditRow, Entry, append_many
from sumika.models.audit.findings import Unexplained

_KEY_FIELDS = ("name", "role", "team", "team_id", "aliases", "endpoints", "sensitivity", "expires_at", "previous_until")
_PER_ROW = 100
_k, _v, _a = schema.keys, schema.versions, schema.aliases

Fields = dict[str, Any]
State = dict[str, dict[str, Fields]]
"""Table → id → what is known of it; a field that is not known is not there."""


def of(connection: Connection) -> State:
    """What the tables say now."""
    versions = connection.execute(select(_v)).all()
    refs = {row.id: f"{row.name}@{row.number}" for row in versions}
    return {
        "keys": {row["id"]: _key(dict(row)) for row in connection.execute(select(_k)).mappings()},
        "versions": {
            refs[row.id]: {
                "kind": row.kind, "digest": row.digest, "base": refs.get(row.base_id), "gate": row.gate,
                "removed": row.removed_at is not None,
            }
            for row in versions
        },
        "aliases": {
            row.name: {"version": refs.get(row.version_id), "canary": refs.get(row.canary_id), "share": row.canary_share}
            for row in connection.execute(select(_a))
        },
    }  # fmt: skip


def secret_digest(hash: str | None) -> str | None:
    """What the log keeps of a key's hash, which itself belongs in the store alone."""
    return None if hash is None else hashlib.sha256(hash.encode()).hexdigest()


def tell(connection: Connection, why: str) -> None:
    """Append what the tables say now, as `audit.state` rows of at most a hundred each."""
    taken = clock.now()
    entries = [
        Entry(Action.AUDIT_STATE, table, reason=why, details={"taken": taken, "rows": dict(some)}, actor=SYSTEM)
        for table, rows in of(connection).items()
        for some in _pieces(rows)
    ]
    append_many(connection, entries)


class Replay:
    """What the log tells of, row by row; `whole`: from its first row on."""

    def __init__(self, *, whole: bool) -> None:
        self._state: State = {"keys": {}, "versions": {}, "aliases": {}}
        self._whole = self._complete = whole
        self._taken: str | None = None
        self._believes, self._counts = True, False
        self._shares: dict[Any, Any] = {}
        self._conflicts: list[Unexplained] = []
        self.adopted = 0
        moving = (Action.ALIAS_DEPLOY, Action.ALIAS_CANARY, Action.ALIAS_PROMOTE, Action.ALIAS_ROLLBACK, Action.ALIAS_ABORT)
        takers: dict[str, Callable[[AuditRow], None]] = dict.fromkeys(moving, self._alias_moved)
        self._takers = takers | {
            Action.ALIAS_REMOVE: self._alias_removed, Action.STORE_DOWNGRADE: self._downgraded,
            Action.KEY_CREATE: self._key_made, Action.KEY_ROTATE: self._key_rotated, Action.KEY_REVOKE: self._key_revoked,
            Action.MODEL_IMPORT: self._version_made, Action.MODEL_REMOVE: self._version_removed, Action.AUDIT_STATE: self._told,
        }  # fmt: skip

    def take(self, row: AuditRow) -> None:
        """A row that is no row of ours, though its hashes fit, explains nothing."""
        if row.outcome in ("done", "asked") and (taker := self._takers.get(row.action)) is not None:
            with suppress(KeyError, TypeError, AttributeError):
                taker(row)

    def differences(self, now: State) -> tuple[Unexplained, ...]:
        """Where `now`, what the tables say, is not what the log explains."""
        found = list(self._conflicts)
        for table, known in self._state.items():
            for id, fields in known.items():
                there = now[table].get(id)
                found += [Unexplained(table, id, "missing")] if there is None else _other(table, id, fields, there)
            unknown = sorted(now[table].keys() - known.keys()) if self._complete else ()
            found += [Unexplained(table, id, "unknown") for id in unknown]
        return tuple(found)

    def _told(self, row: AuditRow) -> None:
        """What the log itself can't know is taken from it: where older rows were pruned, were written by an older release, or
        tell of what an older schema had no place for. Otherwise it must fit."""
        known, rows, taken = self._state[row.object], row.details["rows"], row.details["taken"]
        if taken != self._taken and self._believes:
            self._taken, self._believes = taken, False
            self._complete, self._counts = True, self._complete
        for id, fields in rows.items():
            if taken == self._taken:
                self.adopted += self._counts and id not in known
            elif id not in known:
                self._conflicts.append(Unexplained(row.object, id, "unknown"))
            else:
                self._conflicts += _other(row.object, id, known[id], fields)
            known[id] = dict(fields)

    def _key_made(self, row: AuditRow) -> None:
        digest = {"digest": row.details["digest"], "previous": None} if "digest" in row.details else {}
        told = {name: row.details[name] for name in _KEY_FIELDS if name in row.details}
        self._state["keys"][row.object] = {"previous_until": None, "revoked": False} | told | digest
        if digest and self._whole:  # by a release whose rows tell all there is to know
            self._believes = False

    def _downgraded(self, row: AuditRow) -> None:  # noqa: ARG002 - as the others
        self._believes = True

    def _key_rotated(self, row: AuditRow) -> None:
        key = self._state["keys"].setdefault(row.object, {})
        before = key.pop("digest", None)
        key.pop("previous", None)
        until = key["previous_until"] = row.details.get("previous_until")
        if until is None or before is not None:
            key["previous"] = before if until is not None else None
        if "digest" in row.details:
            key["digest"] = row.details["digest"]

    def _key_revoked(self, row: AuditRow) -> None:
        self._state["keys"].setdefault(row.object, {})["revoked"] = True

    def _version_made(self, row: AuditRow) -> None:
        told = {name: row.details[name] for name in ("kind", "digest", "base", "gate") if name in row.details}
        self._state["versions"][row.object] = told | {"removed": False}

    def _version_removed(self, row: AuditRow) -> None:
        self._state["versions"].setdefault(row.object, {})["removed"] = True

    def _alias_removed(self, row: AuditRow) -> None:
        self._state["aliases"].pop(row.object, None)

    def _alias_moved(self, row: AuditRow) -> None:
        """The share of a canary stands in the row that asked for it."""
        move, to = row.details.get("move"), row.details.get("to")
        if row.outcome == "asked":
            self._shares[move] = row.details.get("share")
        elif to is not None:
            alias = self._state["aliases"].setdefault(row.object, {})
            alias.pop("share", None)
            if row.action != Action.ALIAS_CANARY:
                alias |= {"version": to, "canary": None, "share": None}
            else:
                alias |= {"canary": to} | ({"share": self._shares[move]} if move in self._shares else {})
            self._shares.pop(move, None)


def _key(row: Fields) -> Fields:
    told = {name: row[name] for name in _KEY_FIELDS}
    digests = {"digest": secret_digest(row["hash"]), "previous": secret_digest(row["previous_hash"])}
    return told | digests | {"revoked": row["revoked_at"] is not None}


def _other(table: str, id: str, known: Fields, there: Fields) -> list[Unexplained]:
    fields = tuple(name for name in sorted(known) if name in there and there[name] != known[name])
    return [Unexplained(table, id, "changed", fields)] if fields else []


def _pieces(rows: dict[str, Fields]) -> Iterator[list[tuple[str, Fields]]]:
    every = sorted(rows.items())
    for begin in range(0, len(every), _PER_ROW):
        yield every[begin : begin + _PER_ROW]
