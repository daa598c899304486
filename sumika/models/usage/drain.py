"""From journals into the table. One path for a living worker and for what a killed one left."""

from __future__ import annotations

from pathlib import Path

from sumika.models.actor import SYSTEM
from sumika.models.store import Store
from sumika.models.usage import journal, table
from sumika.models.usage.journal import Journal

_BATCH = 2_000


def drain(store: Store, source: Journal) -> int:
    """Put every row of `source` into the table and clear it; how many were new.

    A kill between the commit and the clearing leaves rows that the next drain finds in the table already.
    """
    added = offset = 0
    while True:
        rows, end = source.read(offset, _BATCH)
        if rows:
            with store.write(quiet=True, by=SYSTEM) as connection:
                added += table.add(connection, rows)
        if end == offset:
            break
        offset = end
    if offset:
        source.clear()
    return added


def recover(store: Store, folder: Path) -> int:
    """The same for every journal in `folder` whose writer is gone, which are then removed; how many rows were new.

    Raises:
        SumikaError: `store_unavailable`; what was not drained stays for the next time.
    """
    added = 0
    for left in journal.abandoned(folder):
        emptied = False
        try:
            added += drain(store, left)
            emptied = True
        finally:
            left.close(remove=emptied)
    return added
