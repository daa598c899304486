"""What the audit log needs of every store."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from sumika.models import audit, clock, keys
from sumika.models.actor import Actor
from sumika.models.audit import Action, pruning
from sumika.models.audit.verify import verify
from sumika.models.audit.witness import Witness
from sumika.models.home import Home
from sumika.models.store import Store
from tests.conftest import ROOT


@pytest.fixture
def log(url: str, home: Home) -> Iterator[Store]:
    store = Store(url, by=Actor("cli:me@here", "operator"), after_write=Witness(home).look)
    store.migrate()
    yield store
    store.close()


def test_row_and_act_are_one(log: Store, home: Home) -> None:
    with pytest.raises(RuntimeError), log.write() as connection:
        keys.create(connection, "bot")
        raise RuntimeError
    with log.write() as connection:
        keys.create(connection, "bot")
    found = verify(log, home)
    assert found.ok and found.rows == 1 and found.checkpoints == 1


def test_processes_that_append_at_once_make_one_chain(log: Store, home: Home) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from sumika.models import audit; from sumika.models.audit.witness import Witness\n"
        "from sumika.models.home import Home; from sumika.models.store import Store\n"
        "store = Store(sys.argv[1], after_write=Witness(Home(Path(sys.argv[2]))).look)\n"
        "for _ in range(40):\n    with store.write() as c: audit.append(c, audit.Action.BASE_SCALE, 'base')\n"
    )
    url = log.engine.url.render_as_string(hide_password=False)
    writers = [subprocess.Popen([sys.executable, "-c", code, url, str(home.root)], cwd=ROOT) for _ in range(3)]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0, 0]
    found = verify(log, home)
    assert found.ok and found.rows == 120 and found.unsigned == 0


@pytest.mark.parametrize(
    "statement", ["update audit set actor = 'x'", "delete from audit where seq = 2", "truncate audit cascade"]
)
def test_database_refuses_to_change_rows(log: Store, home: Home, statement: str) -> None:
    for _ in range(3):
        with log.write() as connection:
            audit.append(connection, Action.BASE_SCALE, "base")
    with pytest.raises(DBAPIError, match=r"append-only|syntax error"), log.engine.begin() as connection:
        connection.execute(text(statement))
    assert verify(log, home).rows == 3


def test_tampering_is_named_and_pruning_verifies(log: Store, home: Home) -> None:
    for _ in range(3):
        with log.write() as connection:
            audit.append(connection, Action.BASE_SCALE, "base")
    assert pruning.prune(log, home, clock.now()) == 3
    assert verify(log, home).ok
    with log.engine.begin() as connection:
        connection.execute(text("update audit_head set floor = 4"))
        connection.execute(text("delete from audit"))
    found = verify(log, home)
    assert found.bad is not None and (found.bad.seq, found.bad.kind) == (4, "missing")


def test_migration_goes_back_and_forth(log: Store) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(ROOT / "sumika" / "models" / "migrations"))
    with log.engine.connect().execution_options(sumika_write=True) as connection, connection.begin():
        config.attributes["connection"] = connection
        command.downgrade(config, "0002")
    log.migrate()
    with log.write() as connection:
        assert audit.append(connection, Action.BASE_SCALE, "base") == 1
