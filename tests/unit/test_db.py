"""`sumika db`: look, up, and back for an older release."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from sumika.cli import main
from sumika.models import leases, upgrades
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.store import Store, alembic_config

REVISIONS = upgrades.revisions(alembic_config())


@pytest.fixture(autouse=True)
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("SUMIKA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SUMIKA_LANG", "en")
    return Home(tmp_path / "home")


def run(*words: str) -> Result:
    return CliRunner().invoke(main.build(words[0]), list(words))


def error(*words: str) -> str:
    told = run(*words).exception
    assert isinstance(told, SumikaError)
    return told.code


def there() -> str:
    return str(json.loads(run("db", "current", "--json").stdout)["there"])


def test_looking_makes_no_database(made: Home) -> None:
    assert error("db", "current") == "not_found" and not made.root.exists()


def test_back_and_up_again_keeps_the_keys_and_says_so_in_the_log(made: Home) -> None:
    run("keys", "create", "bot")
    assert there() == REVISIONS[-1]
    assert run("db", "downgrade", REVISIONS[-2]).exit_code == 0
    assert there() == REVISIONS[-2], "looking does not bring it up"
    assert (made.root / f"sumika.db.schema-{REVISIONS[-1]}").stat().st_mode & 0o777 == 0o600
    assert run("db", "upgrade").exit_code == 0 and there() == REVISIONS[-1]
    assert "bot" in run("keys", "list").stdout
    assert "store.downgrade" in run("audit", "list", "--json").stdout
    assert run("audit", "verify").exit_code == 0


def test_back_twice(made: Home) -> None:
    run("keys", "create", "bot")
    for to in (REVISIONS[-2], REVISIONS[0]):
        assert run("db", "downgrade", to).exit_code == 0 and there() == to
    assert run("db", "upgrade").exit_code == 0 and "bot" in run("keys", "list").stdout


def test_refused_while_sumika_runs_and_that_is_recorded(made: Home) -> None:
    run("keys", "list")
    store = Store(f"sqlite:///{made.database}")
    with store.write() as connection:
        leases.take(connection, "supervisor", "me", 60)
    store.close()
    assert error("db", "downgrade", REVISIONS[0]) == "still_running" and there() == REVISIONS[-1]
    assert '"reason": "still_running"' in run("audit", "list", "--json").stdout


@pytest.mark.parametrize("to", ["head", "base", "9999", REVISIONS[-1]])
def test_no_schema_to_go_back_to(to: str) -> None:
    run("keys", "list")
    assert error("db", "downgrade", to) == "no_such_schema" and there() == REVISIONS[-1]


def test_each_way_back_stands_in_the_log(made: Home) -> None:
    run("keys", "create", "bot")
    for to in ("0010", "0008", "0005"):
        assert run("db", "downgrade", to).exit_code == 0 and there() == to
    assert run("db", "upgrade").exit_code == 0
    rows = json.loads(run("audit", "list", "--action", "store.downgrade", "--json").stdout)
    assert [row["object"] for row in rows] == ["0005", "0008", "0010"]
    assert run("audit", "verify").exit_code == 0
