"""The one place where a path that names something is held against who asks, before any handler runs (`access.Rule.owned`).

What is another team's is answered exactly as what does not exist.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial

from sqlalchemy import Connection

from sumika.models import aliases, audit, batches, files, jobs, keys, moves, orders, registry
from sumika.models.actor import Actor
from sumika.models.keys import Key
from sumika.models.names import VersionRef
from sumika.models.principals import Principal
from sumika.models.store import Store
from sumika.serving.access import PLACES, Owned, Rule

_LONGEST_NUMBER = 18


class Ownership:
    """Looks up what a request's path names, in `store`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def check(self, who: Principal, rule: Rule, path: str) -> None:
        """Raises SumikaError: as the model answers for what is not there, or is not `who`'s."""
        if any(kind in _CHECKS for kind in rule.owned):
            await asyncio.to_thread(self._check, who, rule, rule.names(path))

    def _check(self, who: Principal, rule: Rule, names: Mapping[str, str]) -> None:
        """A refused act is a row of the audit log, as one that the handler refuses."""
        checks = [partial(_CHECKS[kind], name=names[PLACES[kind]], acts=rule.acts) for kind in rule.owned if kind in _CHECKS]
        named, by = names[PLACES[rule.owned[-1]]], Actor(who.id, who.role, who.source)
        with audit.refusals(self._store, rule.action, named, by) if rule.action else nullcontext():
            with self._store.read() as connection:
                for check in checks:
                    check(connection, who)


def managed_key(connection: Connection, who: Principal, key_id: str) -> Key:
    """Raises SumikaError `not_found`, the same for a key that is not there and one that is not `who`'s to manage."""
    key = keys.get(connection, key_id)
    if not who.may_manage(key.role, key.team_id):
        raise keys.no_such_key(key_id)
    return key


def _alias(connection: Connection, who: Principal, name: str, acts: bool) -> None:
    (aliases.check_moved_by if acts else aliases.check_seen)(connection, who, name)


def _batch(connection: Connection, who: Principal, name: str, acts: bool) -> None:  # noqa: ARG001 - all of one kind
    batches.get(connection, who, name)


def _file(connection: Connection, who: Principal, name: str, acts: bool) -> None:  # noqa: ARG001
    files.get(connection, who, name)


def _job(connection: Connection, who: Principal, name: str, acts: bool) -> None:  # noqa: ARG001
    if not _is_number(name):
        raise jobs.no_such_job(name)
    jobs.seen(connection, who, int(name))


def _key(connection: Connection, who: Principal, name: str, acts: bool) -> None:  # noqa: ARG001
    managed_key(connection, who, name)


def _move(connection: Connection, who: Principal, name: str, acts: bool) -> None:  # noqa: ARG001
    if not _is_number(name) or not aliases.sees_move(who, moves.get(connection, int(name)), aliases.lives(connection)):
        raise moves.no_such_move(name)


def _tuning(connection: Connection, who: Principal, name: str, acts: bool) -> None:  # noqa: ARG001
    orders.get(connection, who, name)


def _version(connection: Connection, who: Principal, name: str, acts: bool) -> None:  # noqa: ARG001
    registry.seen(connection, who, VersionRef.parse(name))


def _is_number(name: str) -> bool:
    """Spelled so that the handler can't read another number from it."""
    return name.isascii() and name.isdigit() and len(name) <= _LONGEST_NUMBER


# No `model`: every team may call every alias within its key's scope, which the handler looks up in memory.
_CHECKS: Mapping[Owned, Callable[..., None]] = {
    "alias": _alias, "batch": _batch, "file": _file, "job": _job, "key": _key, "move": _move, "tuning": _tuning,
    "version": _version,
}  # fmt: skip
