"""PostgreSQL as strict as SQLite: one writer at a time, one snapshot for each reader, and a bound on every wait.

Isolation: a write transaction is READ COMMITTED and first takes the write lock, an advisory lock of the transaction, as
SQLite's BEGIN IMMEDIATE takes the file's. What it reads therefore can't change before it commits. A read transaction is
REPEATABLE READ, so that all its statements see one moment. Neither can fail to serialize, whatever the server's defaults are.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.errors import _WaitTimeout
from sqlalchemy import Connection, Engine, create_engine, event, make_url

# Any number, the same in every release: whoever holds it may write, or change the schema.
WRITE_LOCK = 7_266_452
# Seconds. How long to wait for a connection, for the answer that shows that one is alive, and for the write lock.
CONNECT_S = 5
ANSWER_S = 5.0
LOCK_S = 5.0
# Seconds to wait for one of the process's connections, each of which may itself wait for the write lock.
POOL_S = 10.0
# Seconds that the server keeps a write transaction whose client is silent: then its locks are free for others.
IDLE_S = 10.0
# Seconds that an answer may take longer than the server's own bound on the statement.
_SLACK_S = 2.0
# libpq's own bounds (https://www.postgresql.org/docs/current/libpq-connect.html). None is a startup option: PgBouncer refuses those.
_LIBPQ = {
    "connect_timeout": CONNECT_S, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 15_000,
}  # fmt: skip


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that is closed when an answer takes too long.

    The server's timeouts end a slow statement. A server that is silent without closing the connection ends nothing.
    """

    answer_s: float | None = ANSWER_S

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, self.answer_s if timeout is None else timeout)
        except _WaitTimeout as error:
            if timeout is not None:  # psycopg's own, which handles it
                raise
            self.close()
            raise psycopg.errors.ConnectionTimeout(f"no answer within {self.answer_s:g} s") from error


def engine(url: str) -> Engine:
    given = make_url(url).query
    made = create_engine(
        url,
        isolation_level="READ COMMITTED",
        pool_pre_ping=True,
        pool_timeout=POOL_S,
        hide_parameters=True,
        connect_args={name: value for name, value in _LIBPQ.items() if name not in given},
    )
    event.listen(made, "do_connect", _connect)
    event.listen(made, "begin", _begin)
    event.listen(made, "checkin", _checkin)
    return made


def _connect(_dialect: Any, _record: Any, arguments: Any, parameters: Any) -> BoundedConnection:
    return BoundedConnection.connect(*arguments, **parameters)


def _begin(connection: Connection) -> None:
    """Bound the transaction, and have a writer wait for its turn. In one statement list: it is sent as one message."""
    options = connection.get_execution_options()
    statement_s: float | None = options.get("sumika_statement_s")
    statements = [_set("statement_timeout", statement_s)]
    if options.get("sumika_write", False):
        patient = statement_s is None  # it changes the schema
        statements += [
            _set("lock_timeout", None if patient else LOCK_S),
            _set("idle_in_transaction_session_timeout", None if patient else IDLE_S),
            f"SELECT pg_advisory_xact_lock({WRITE_LOCK})",
        ]
    driver = connection.connection.driver_connection
    assert isinstance(driver, BoundedConnection)  # noqa: S101 - `_connect` makes no other
    driver.answer_s = None if statement_s is None else statement_s + _SLACK_S
    connection.exec_driver_sql("; ".join(statements))


def _checkin(driver: BoundedConnection | None, _record: Any) -> None:
    """The next one to take the connection first asks whether it is alive, which takes no time."""
    if driver is not None:
        driver.answer_s = ANSWER_S


def _set(name: str, seconds: float | None) -> str:
    return f"SET LOCAL {name} = {0 if seconds is None else round(seconds * 1000)}"
