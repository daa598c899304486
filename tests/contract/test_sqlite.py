"""What is SQLite's alone."""

from __future__ import annotations

from pathlib import Path

import pysqlite3.dbapi2 as sqlite
import pytest

from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.store import Store


@pytest.fixture
def url(home: Home) -> str:
    return f"sqlite:///{home.database}"


def test_database_that_is_locked_or_missing_is_told(url: str, tmp_path: Path) -> None:
    other = Store(url)
    with other.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=100")
    holder = sqlite.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(SumikaError) as told, other.write():
        pass
    holder.close()
    assert told.value.code == "store_unavailable" and told.value.retry_after
    with pytest.raises(SumikaError), Store(f"sqlite:///{tmp_path}/none/x.db").read():
        pass


def test_sqlite_is_new_enough_durable_and_in_wal(store: Store) -> None:
    assert sqlite.sqlite_version_info >= (3, 51, 3)
    with store.read() as connection:
        asked = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert asked == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
