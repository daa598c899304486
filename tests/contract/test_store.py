"""What every store must do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, Table, inspect, text

from sumika.models import aliases, keys, moves, schema
from sumika.models.store import Store, revision
from tests.conftest import ROOT


def url_of(store: Store) -> str:
    return store.engine.url.render_as_string(hide_password=False)


def test_migrations_make_the_schema_of_the_code(store: Store) -> None:
    store.migrate()
    with store.read() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, schema.metadata) == []


def test_migrations_make_the_same_checks_as_the_code(store: Store) -> None:
    """`compare_metadata` looks at columns and keys only."""
    for table in schema.metadata.sorted_tables:
        theirs = {str(c["name"]): c["sqltext"] for c in inspect(store.engine).get_check_constraints(table.name)}
        assert theirs == _declared(store, table), table.name


def _declared(store: Store, table: Table) -> dict[str, str]:
    """As the code spells them; where the database spells them anew, as it does so in a schema made of the code."""
    if store.engine.dialect.name == "sqlite":
        return {str(c.name): str(c.sqltext) for c in table.constraints if isinstance(c, CheckConstraint)}
    made = store.engine.execution_options(schema_translate_map={None: "declared"})
    with made.begin() as connection:
        connection.execute(text("create schema if not exists declared"))
        schema.metadata.create_all(connection)
    return {str(c["name"]): c["sqltext"] for c in inspect(store.engine).get_check_constraints(table.name, schema="declared")}


def test_older_store_keeps_what_it_holds(url: str) -> None:
    old = Store(url)
    config = _alembic()
    with old.engine.connect().execution_options(sumika_write=True) as connection, connection.begin():
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(text(
            "insert into versions values (1, 'base', 1, 'base', null, 'f', 'd', 'none', '{}', '2026-11-23T00:00:00.000000Z', null)"
        ))  # fmt: skip
        connection.execute(text("insert into aliases values ('faq', 1, 3, '2026-11-23T00:00:00.000000Z')"))
        connection.execute(text(
            "insert into moves (id, alias, to_id, kind, state, step, actor, reason, generation, asked_at)"
            " values (1, 'faq', 1, 'deploy', 'done', 'ended', 'me', 'why', 2, '2026-11-23T00:00:00.000000Z')"
        ))  # fmt: skip
    old.migrate()
    with old.read() as connection:
        assert aliases.list_all(connection) == [aliases.Alias("faq", 1, 3, "2026-11-23T00:00:00.000000Z")]
        (move,) = moves.history(connection)
    assert (move.alias, move.kind, move.reason, move.share) == ("faq", "deploy", "why", None)
    old.close()


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(ROOT / "sumika" / "models" / "migrations"))
    return config


def test_migrations_go_back_and_forth(store: Store) -> None:
    config = _alembic()
    with store.engine.connect().execution_options(sumika_write=True) as connection, connection.begin():
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    assert set(inspect(store.engine).get_table_names()) <= {"alembic_version"}
    store.migrate()
    with store.read() as connection:
        assert revision(connection) == 0


def test_revision_moves_with_every_write_but_quiet_ones(store: Store) -> None:
    with store.read() as connection:
        before = revision(connection)
    with store.write():
        pass
    with store.write(quiet=True):
        pass
    with store.read() as connection:
        assert revision(connection) == before + 1


def test_write_that_fails_leaves_nothing(store: Store) -> None:
    with pytest.raises(RuntimeError), store.write() as connection:
        keys.create(connection, "bot")
        raise RuntimeError
    with store.read() as connection:
        assert keys.list_all(connection) == [] and revision(connection) == 0


def script(store: Store, body: str) -> list[str]:
    code = f"from sumika.models import keys\nfrom sumika.models.store import Store\nstore = Store({url_of(store)!r})\n{body}"
    return [sys.executable, "-c", code]


def test_writers_in_several_processes_lose_nothing(store: Store) -> None:
    body = "for _ in range(40):\n    with store.write() as c: keys.create(c, 'bot')"
    processes = [subprocess.Popen(script(store, body), cwd=ROOT) for _ in range(3)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    with store.read() as connection:
        assert len(keys.list_all(connection)) == revision(connection) == 120


def test_what_was_committed_survives_kill_and_what_was_not_is_gone(store: Store) -> None:
    body = (
        "n = 0\n"
        "while True:\n"
        "    with store.write() as c:\n"
        "        keys.create(c, 'bot'); keys.create(c, 'bot')\n"
        "    n += 2; print(n, flush=True)"
    )
    for _ in range(4):
        with store.write() as connection:
            connection.execute(text("delete from keys"))
        process = subprocess.Popen(script(store, body), stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.2)
        os.kill(process.pid, signal.SIGKILL)
        told = [int(line) for line in process.stdout.read().split()]
        process.wait()
        with store.read() as connection:
            count = len(keys.list_all(connection))
        assert count % 2 == 0 and count >= max(told, default=2)


def test_writers_that_read_first_wait_for_each_other(store: Store) -> None:
    """On SQLite a transaction that begins as a reader could not wait for its turn to write: it answers BUSY at once."""
    body = "from sumika.models.store import revision\nfor _ in range(40):\n    with store.write() as c: revision(c); keys.create(c, 'bot')"
    processes = [subprocess.Popen(script(store, body), cwd=ROOT) for _ in range(3)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
    with store.read() as connection:
        assert len(keys.list_all(connection)) == revision(connection) == 120
