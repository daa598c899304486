"""The database as text: one file a table, one JSON object a row; the same whether SQLite or PostgreSQL keeps it.

Tables are read as the database describes them, not as this program does, so a backup of an older Sumika is restored to its own schema
first and brought up to date there.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from sqlalchemy import JSON, Column, Connection, Integer, LargeBinary, MetaData, Table, delete, func, insert, null, select, text

# What processes see and hold now; on another machine there is nothing of it. Whoever is signed in signs in again.
PASSING = frozenset({"engines", "gateways", "leases", "sessions", "alembic_version"})
_ROWS = 1_000


def revision(connection: Connection) -> str:
    """Of the schema, as Alembic names it."""
    return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one())


def described(connection: Connection) -> list[Table]:
    """Tables worth keeping, those that others refer to first."""
    metadata = MetaData()
    metadata.reflect(connection)
    return [table for table in metadata.sorted_tables if table.name not in PASSING]


def rows(connection: Connection, table: Table) -> Iterator[bytes]:
    """Each row as a line."""
    keys = list(table.primary_key.columns)
    found = connection.execution_options(yield_per=_ROWS).execute(select(table).order_by(*keys))
    for row in found.mappings():
        yield json.dumps({name: _told(value) for name, value in row.items()}, ensure_ascii=False).encode() + b"\n"


def fill(connection: Connection, table: Table, lines: Iterable[bytes]) -> int:
    """Put `lines` in place of what a new schema brings along; how many there were."""
    connection.execute(delete(table))
    count = 0
    waiting = iter(lines)
    while some := list(islice(waiting, _ROWS)):
        values = [{name: _read(table.columns[name], value) for name, value in json.loads(line).items()} for line in some]
        connection.execute(insert(table), values)
        count += len(values)
    _go_on_counting(connection, table)
    return count


def _go_on_counting(connection: Connection, table: Table) -> None:
    """Ids that PostgreSQL gives out must begin after those that were put in; SQLite sees for itself."""
    if connection.dialect.name != "postgresql":
        return
    for column in table.primary_key.columns:
        if isinstance(column.type, Integer):
            sequence = connection.execute(select(func.pg_get_serial_sequence(table.name, column.name))).scalar_one()
            highest = connection.execute(select(func.max(column))).scalar_one()
            if sequence is not None and highest is not None:
                connection.execute(select(func.setval(sequence, highest)))


def _told(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _read(column: Column[Any], value: Any) -> Any:
    if value is None:
        return null() if isinstance(column.type, JSON) else None  # JSON's own null is another thing
    return base64.b64decode(value) if isinstance(column.type, LargeBinary) else value
