"""From journals that are written no more into the table, and into the audit log where it tells of every request."""

from __future__ import annotations

from pathlib import Path

from sumika.models.actor import SYSTEM
from sumika.models.audit import chain, inference
from sumika.models.store import Store
from sumika.models.usage import journal, table
from sumika.models.usage.journal import Journal
from sumika.models.usage.rows import UsageRow

_BATCH = 2_000


def drain(store: Store, source: Journal, *, audited: bool = False) -> int:
    """Put every row of `source` into the table, and tell the audit log of it where `audited`; how many were new. Requests that its writer was killed in
    get their rows too.

    A kill before the journal is removed leaves rows that the next drain finds in the table already: what is in the table is in
    the log too, by one transaction.
    """
    added = offset = 0
    while True:
        rows, end = source.read(offset, _BATCH)
        added += _add(store, rows, audited=audited)
        if end == offset:
            return added + _add(store, source.interrupted(), audited=audited)
        offset = end


def _add(store: Store, rows: list[UsageRow], *, audited: bool) -> int:
    if not rows:
        return 0
    with store.write(quiet=True, by=SYSTEM) as connection:
        fresh = table.add(connection, rows)
        if audited and fresh:
            chain.append_many(connection, list(map(inference.entry, fresh)))
    return len(fresh)


def recover(store: Store, folder: Path, *, audited: bool = False) -> int:
    """The same for every journal in `folder` that its writer closed, or left behind when it died; they are then removed.

    Raises:
        SumikaError: `store_unavailable`; what was not drained stays for the next time.
    """
    added = 0
    for left in journal.abandoned(folder):
        emptied = False
        try:
            added += drain(store, left, audited=audited)
            emptied = True
        finally:
            left.close(remove=emptied)
    return added
