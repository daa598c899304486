"""The store: SQLite by default, PostgreSQL by URL. Short transactions over the tables of `schema.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pysqlite3.dbapi2 as sqlite
from sqlalchemy import Connection, Engine, create_engine, event, inspect, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionLeft

from sumika.models import schema
from sumika.models.actor import UNNAMED, Actor
from sumika.models.errors import SumikaError, quoted

if TYPE_CHECKING:
    from alembic.config import Config

_BUSY_TIMEOUT_MS = 5_000
_MIGRATIONS = Path(__file__).parent / "migrations"


class Store:
    """Transactions on one database. Cheap to make; `close` it when done.

    Every `write` moves the revision, so that readers in other processes notice within one poll.
    `by` is who acts where a write names nobody else. `after_write` is called when a write that moved the revision is committed.
    """

    def __init__(self, url: str, *, by: Actor = UNNAMED, after_write: Callable[[Store], None] | None = None) -> None:
        self._by = by
        self._after_write = after_write
        self.engine = _sqlite_engine(url) if url.startswith("sqlite") else create_engine(url, pool_pre_ping=True)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with _told(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self, *, quiet: bool = False, by: Actor | None = None) -> Iterator[Connection]:
        """A write transaction of `by`; `quiet` ones (heartbeats) leave the revision where it is."""
        options = {"sumika_write": True, "sumika_by": by or self._by}
        with _told(), self.engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection
            if not quiet:
                connection.execute(update(schema.revision).values(n=schema.revision.c.n + 1))
        if not quiet and self._after_write is not None:
            self._after_write(self)

    def migrate(self) -> None:
        """Bring the schema to this code's version; safe when several processes start at once.

        Raises:
            SumikaError: `newer_database`, `no_copy`, as `upgrades.upgrade`; `store_unavailable`.
        """
        if self._schema() == _newest():
            return
        from sumika.models import upgrades  # here: Alembic takes a fifth of a start, and is seldom needed

        with self.migrating() as (connection, config):
            upgrades.upgrade(connection, config)

    def _schema(self) -> str | None:
        with self.read() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            version: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
            return version

    @contextmanager
    def migrating(self) -> Iterator[tuple[Connection, Config]]:
        """One transaction in which Alembic's commands may change the schema; others wait until it ends."""
        from sumika.models import upgrades

        config = alembic_config()
        with _told(), self.engine.connect().execution_options(sumika_write=True) as connection, connection.begin():
            upgrades.wait_turn(connection)
            config.attributes["connection"] = connection
            yield connection, config

    def close(self) -> None:
        self.engine.dispose()


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


@contextmanager
def _told() -> Iterator[None]:
    """Turn a database that can't be written or reached into a sentence that says what to do."""
    try:
        yield
    except OperationalError as error:
        raise _unavailable(str(error.orig)) from error
    except NoConnectionLeft as error:  # all wait for a database that is locked
        raise _unavailable("too many wait for it") from error


def _unavailable(why: str) -> SumikaError:
    why = quoted(why)
    return SumikaError(
        "store_unavailable",
        f"The database did not answer: {why}. Check its disk and that no other program holds it, then try again.",
        f"データベースが応答しません: {why}。ディスクの空きと、他のプログラムが使用していないかを確認してください。",
        status=503,
        retry_after=5,
    )


def _sqlite_engine(url: str) -> Engine:
    # pysqlite3 carries its own SQLite: the system's may lie in the range whose WAL can lose commits (3.7.0-3.51.2).
    engine = create_engine(url, module=sqlite)

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
