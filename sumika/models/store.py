"""The store: SQLite by default, PostgreSQL by URL. Short transactions over the tables of `schema.py`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pysqlite3.dbapi2 as sqlite
from sqlalchemy import Connection, Engine, create_engine, event, inspect, select, text, update
from sqlalchemy.exc import DatabaseError, DataError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionLeft

from sumika.models import schema
from sumika.models.actor import UNNAMED, Actor
from sumika.models.errors import SumikaError, quoted

if TYPE_CHECKING:
    from alembic.config import Config

_BUSY_TIMEOUT_MS = 5_000
# Seconds that one statement may take on PostgreSQL: of acts, and of reports and searches. None: as long as it takes.
STATEMENT_S = 10.0
LONG_STATEMENT_S = 60.0
# Seconds after which a database that was silent is asked again, by one caller. Meanwhile all others are refused at once.
_SILENT_S = 3.0
# Seconds that this caller takes at most to find the database silent still.
_ASKING_S = 10.0
# How SQLite, and its driver, tell a file that holds what nobody wrote.
_DAMAGED = (
    "disk image is malformed",
    "file is not a database",
    "malformed database schema",
    "unsupported file format",
    "Could not decode to UTF-8",
    "no such column",
    "no such table",
)
_READ_ONLY = "25006"  # PostgreSQL's read_only_sql_transaction
_MIGRATIONS = Path(__file__).parent / "migrations"


class Store:
    """Transactions on one database. Cheap to make; `close` it when done.

    Every `write` moves the revision, so that readers in other processes notice within one poll.
    `by` is who acts where a write names nobody else. `after_write` is called when a write that moved the revision is committed.
    """

    def __init__(self, url: str, *, by: Actor = UNNAMED, after_write: Callable[[Store], None] | None = None) -> None:
        self._by = by
        self._after_write = after_write
        self.engine = _sqlite_engine(url) if url.startswith("sqlite") else _postgres_engine(url)
        self._outage = _Outage()

    @contextmanager
    def read(self, *, statement_s: float = STATEMENT_S) -> Iterator[Connection]:
        """A transaction whose statements all see the same moment."""
        options: dict[str, Any] = {"sumika_statement_s": statement_s}
        if self.engine.dialect.name == "postgresql":
            options["isolation_level"] = "REPEATABLE READ"
        with self._began(options) as connection:
            yield connection

    @contextmanager
    def write(
        self, *, quiet: bool = False, by: Actor | None = None, statement_s: float | None = STATEMENT_S
    ) -> Iterator[Connection]:
        """A write transaction of `by`, one at a time in the whole database; `quiet` ones (heartbeats) leave the revision where it is."""
        options = {"sumika_write": True, "sumika_by": by or self._by, "sumika_statement_s": statement_s}
        with self._began(options) as connection:
            yield connection
            if not quiet:
                connection.execute(update(schema.revision).values(n=schema.revision.c.n + 1))
        if not quiet and self._after_write is not None:
            self._after_write(self)

    def migrate(self, upgraded: Callable[[Connection, str | None], None] | None = None) -> None:
        """Bring the schema to this code's version; safe when several processes start at once. `upgraded` is called in the same transaction,
        with the schema that was there before.

        Raises:
            SumikaError: `newer_database`, `no_copy`, as `upgrades.upgrade`; `store_unavailable`.
        """
        if self._schema() == _newest():
            return
        from sumika.models import upgrades  # here: Alembic takes a fifth of a start, and is seldom needed

        with self.migrating() as (connection, config):
            there = upgrades.current(connection)
            upgrades.upgrade(connection, config)
            if upgraded is not None and there != upgrades.current(connection):
                upgraded(connection, there)

    def check(self) -> None:
        """Look through the whole of SQLite's file, which takes seconds for each gigabyte; PostgreSQL looks after its own.

        Raises:
            SumikaError: `broken_database`; `store_unavailable`.
        """
        if self.engine.dialect.name != "sqlite":
            return
        with self.read() as connection:
            found = str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar())
        if found != "ok":
            raise _broken(self.engine, found)

    def _schema(self) -> str | None:
        with self.read() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            version: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
            return version

    @contextmanager
    def migrating(self) -> Iterator[tuple[Connection, Config]]:
        """One transaction in which Alembic's commands may change the schema, however long it takes; others wait until it ends."""
        config = alembic_config()
        with self._began({"sumika_write": True, "sumika_by": self._by, "sumika_statement_s": None}) as connection:
            config.attributes["connection"] = connection
            yield connection, config

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def _began(self, options: dict[str, Any]) -> Iterator[Connection]:
        with (
            _told(self.engine, self._outage),
            self.engine.connect().execution_options(**options) as connection,
            connection.begin(),
        ):
            self._outage.over()
            yield connection


def alembic_config() -> Config:
    """Where the migrations are."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config


def _newest() -> str:
    """The schema of this program, by the name of its last migration: mNNNN_what.py makes schema NNNN."""
    return max(path.name for path in (_MIGRATIONS / "versions").glob("m*.py"))[1:5]


def revision(connection: Connection) -> int:
    return int(connection.execute(select(schema.revision.c.n)).scalar_one())


class _Outage:
    """A database that was silent a moment ago: one caller at a time asks it again, all others are refused at once.

    Otherwise each would wait in a thread of its own, and no thread would be left.
    """

    def __init__(self) -> None:
        self._until = 0.0

    def check(self) -> None:
        """Raises SumikaError `store_unavailable`."""
        now = time.monotonic()
        if now < self._until:
            raise _unavailable("it was silent a moment ago")
        if self._until:
            self._until = now + _ASKING_S

    def began(self) -> None:
        self._until = time.monotonic() + _SILENT_S

    def over(self) -> None:
        self._until = 0.0


@contextmanager
def _told(engine: Engine, outage: _Outage) -> Iterator[None]:
    """Turn a database that can't be written or reached, or is damaged, into a sentence that says what to do."""
    outage.check()
    try:
        yield
    except DatabaseError as error:
        why = str(error.orig)
        if _is_silent(error):
            outage.began()
        else:
            outage.over()
        if any(words in why for words in _DAMAGED):
            raise _broken(engine, why) from error
        if getattr(error.orig, "sqlstate", None) == _READ_ONLY:
            raise _read_only() from error
        # What PostgreSQL refuses, but for what our own statement has wrong.
        if isinstance(error, OperationalError) or (
            engine.dialect.name == "postgresql" and not isinstance(error, IntegrityError | DataError)
        ):
            raise _unavailable(why) from error
        raise
    except UnicodeDecodeError as error:  # of SQLite's own message, which quotes what it found
        raise _broken(engine, "it holds what is no text") from error
    except NoConnectionLeft as error:  # all wait for a database that is locked
        raise _unavailable("too many wait for it") from error


def _is_silent(error: DatabaseError) -> bool:
    return type(error.orig).__name__ == "ConnectionTimeout"  # by its name: psycopg is loaded only where it is used


def _broken(engine: Engine, why: str) -> SumikaError:
    file, why = quoted(str(engine.url.database)), quoted(why)
    return SumikaError(
        "broken_database",
        f"The database {file} is damaged ({why}). End Sumika, put its whole home aside, bring the last backup back with 'sumika restore FILE', "
        "and run 'sumika audit verify'. If the disk did it, the next file goes the same way: look at the kernel's log.",
        f"データベース {file} が壊れています({why})。Sumikaを終了し、ホーム全体を別の場所に移してから 'sumika restore FILE' で最後のバックアップを戻し、"
        "'sumika audit verify' を実行してください。ディスクが原因の場合は再発するため、カーネルのログも確認してください。",
        status=503,
    )


def _unavailable(why: str) -> SumikaError:
    why = quoted(why)
    return SumikaError(
        "store_unavailable",
        f"The database did not answer: {why}. Check its disk and that no other program holds it, then try again.",
        f"データベースが応答しません: {why}。ディスクの空きと、他のプログラムが使用していないかを確認してください。",
        status=503,
        retry_after=5,
    )


def _read_only() -> SumikaError:
    return SumikaError(
        "store_unavailable",
        "The database takes no writes: it is a standby, or default_transaction_read_only is on. Turn that off, or set SUMIKA_DATABASE_URL to the primary server.",
        "データベースが読み取り専用のため書き込めません(スタンバイ、または default_transaction_read_only が on)。"
        "設定を戻すか、SUMIKA_DATABASE_URL をプライマリサーバーに変更してください。",
        status=503,
        retry_after=5,
    )


def _postgres_engine(url: str) -> Engine:
    from sumika.models import postgres  # here: psycopg takes a tenth of a start, and SQLite needs none of it

    return postgres.engine(url)


def _sqlite_engine(url: str) -> Engine:
    # pysqlite3 carries its own SQLite: the system's may lie in the range whose WAL can lose commits (3.7.0-3.51.2).
    def read_json(text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            raise _broken(engine, str(error)) from error

    engine = create_engine(url, module=sqlite, json_deserializer=read_json, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin below, not in the driver
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            f"busy_timeout={_BUSY_TIMEOUT_MS}",
            "foreign_keys=ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer that starts as a reader can't wait for its turn: SQLite answers BUSY at once.
        write = connection.get_execution_options().get("sumika_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine
