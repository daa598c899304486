"""From every released schema to this one and back, with rows in every table, on both databases."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pysqlite3.dbapi2 as sqlite
import pytest
from alembic import command
from sqlalchemy import Connection, MetaData, Table, insert, inspect, select, text

from sumika.models import leases, moves, store, upgrades
from sumika.models.errors import SumikaError
from sumika.models.store import Store, alembic_config
from tests.conftest import ROOT

AT = "2026-11-23T00:00:00.000000Z"
REVISIONS = upgrades.revisions(alembic_config())
# A row for each table, as its newest schema has it; an older one takes the columns that it knows.
ROWS: dict[str, dict[str, Any]] = {
    "versions": {"id": 1, "name": "base", "number": 1, "kind": "base", "base_id": None, "folder": "base/1", "digest": "d", "gate": "none",
                 "meta": {"note": "社内"}, "created_at": AT, "removed_at": None},
    "aliases": {"name": "faq", "version_id": 1, "generation": 3, "moved_at": AT},
    "engines": {"id": "e1", "base_id": 1, "socket": "s", "state": "ready", "adapters": ["a"], "restarts": 2, "changed_at": AT, "gpu": 1, "memory": 2**40},
    "moves": {"id": 1, "alias": "faq", "from_id": None, "to_id": 1, "kind": "deploy", "state": "done", "step": "ended", "actor": "me",
              "reason": "理由", "generation": 3, "asked_at": AT, "ended_at": AT},
    "keys": {"id": "k1", "name": "bot", "hash": "h" * 64, "last4": "abcd", "role": "app", "aliases": ["faq"], "created_at": AT, "team": "sales",
             "endpoints": ["chat"], "sensitivity": "internal", "creator": "me", "rotated_at": AT, "previous_hash": "p" * 64, "previous_until": AT},
    "leases": {"name": "supervisor", "holder": "gone", "token": 7, "until": AT},
    "gateways": {"id": "g1", "pid": 1, "seen_revision": 1, "running": {}, "waiting": {}, "beat_at": AT},
    "scales": {"base": "base", "replicas": 2, "actor": "me", "changed_at": AT},
    "jobs": {"id": 1, "name": "faq", "run": "r1", "state": "done", "priority": 0, "actor": "me", "memory": 2**40, "attempts": 1, "asked_at": AT,
             "owner": "operator", "sensitivity": "confidential"},
    "audit": {"seq": 1, "at": AT, "actor": "me", "role": "operator", "action": "key.create", "object": "k1", "outcome": "ok", "reason": "",
              "details": "{}", "prev": "0" * 64, "hash": "1" * 64},
    "audit_contents": {"seq": 1, "sealed": b"\0\xff"},
    "teams": {"name": "sales", "title": "営業", "created_at": AT, "id": "team-1"},
    "sessions": {"hash": "s" * 64, "principal": "p", "name": "n", "role": "app", "team": "sales", "began_at": AT, "seen_at": AT},
    "usage": {"request": "q1", "at": AT, "key": "k1", "team": None, "alias": "faq", "version": "base@1", "endpoint": "chat", "status": 200, "code": "",
              "partial": False, "prompt_tokens": 3, "duration_ms": 9},
    "usage_totals": {"month": "2026-11", "kind": "key", "name": "k1", "requests": 1, "tokens": 2**40},
    "limits": {"kind": "team", "name": "sales", "requests_per_minute": 60, "weight": 3, "priority": "batch", "changed_at": AT},
    "files": {"id": "f1", "owner": "sales", "creator": "k1", "purpose": "batch", "name": "入力.jsonl", "bytes": 2**40, "sha256": "a" * 64, "created_at": AT,
              "sensitivity": "public"},
    "batches": {"id": "b1", "owner": "sales", "key": "k1", "state": "completed", "endpoint": "/v1/chat/completions", "input_id": "f1",
                "sensitivity": "internal", "language": "ja", "metadata": {"a": "b"}, "total": 1, "done": 1, "failed": 0, "created_at": AT, "expires_at": AT},
    "orders": {"id": "o1", "owner": "sales", "job_id": 1, "asked": {"model": "base"}, "created_at": AT},
}  # fmt: skip
# Brought along by the schema itself; `gateways` is written anew at every beat.
OWN = {"alembic_version", "revision", "audit_head"}
PASSING = {"gateways"}


def at(opened: Store, revision: str) -> None:
    """A database as a program of `revision` left it, with a row in each table."""
    with opened.migrating() as (connection, config):
        command.upgrade(config, revision)
        for table in tables(connection):
            row = {name: value for name, value in ROWS[table.name].items() if name in table.columns}
            connection.execute(insert(table).values(row))


def tables(connection: Connection) -> list[Table]:
    metadata = MetaData()
    metadata.reflect(connection)
    return [table for table in metadata.sorted_tables if table.name not in OWN]


def contents(opened: Store) -> dict[str, dict[str, Any]]:
    """The row of each table that has one."""
    with opened.read() as connection:
        rows = {table.name: connection.execute(select(table)).mappings().one_or_none() for table in tables(connection)}
    return {table: dict(row) for table, row in rows.items() if row is not None and table not in PASSING}


def within(older: dict[str, dict[str, Any]], newer: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of `newer`, what `older` has places for."""
    return {table: {name: newer[table][name] for name in row} for table, row in older.items()}


def schema_of(opened: Store) -> str | None:
    with opened.read() as connection:
        return upgrades.current(connection)


@pytest.fixture
def opened(url: str) -> Any:
    with closing(Store(url)) as made:
        yield made


@pytest.mark.parametrize("revision", REVISIONS)
def test_every_schema_goes_to_the_newest_and_back_with_its_rows(opened: Store, revision: str) -> None:
    at(opened, revision)
    before = contents(opened)
    with opened.read() as connection:
        assert before.keys() == {table.name for table in tables(connection)} - PASSING
    opened.migrate()
    assert schema_of(opened) == REVISIONS[-1]
    assert within(before, contents(opened)) == before
    if revision == REVISIONS[-1]:
        return
    with opened.migrating() as (connection, config):
        upgrades.downgrade(connection, config, revision)
    assert schema_of(opened) == revision and contents(opened) == before


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_going_back_keeps_what_the_older_schema_can_hold(opened: Store, revision: str) -> None:
    at(opened, REVISIONS[-1])
    before = contents(opened)
    with opened.migrating() as (connection, config):
        upgrades.downgrade(connection, config, revision)
    older = contents(opened)
    assert {"versions", "aliases", "moves", "keys"} <= older.keys() and older == within(older, before)
    opened.migrate()
    assert within(older, contents(opened)) == older
    if revision >= "0004":  # the log's triggers came along
        with pytest.raises(Exception, match="append-only"), opened.write() as connection:
            connection.execute(text("update audit set actor = 'x'"))


def test_of_several_open_moves_of_one_alias_the_newest_stays(opened: Store) -> None:
    at(opened, "0008")
    with opened.write() as connection:
        row = connection.execute(text("select * from moves")).mappings().one()
        table = Table("moves", MetaData(), autoload_with=connection)
        for number, alias, state in ((101, "a", "open"), (102, "a", "open"), (103, "a", "done"), (104, "b", "open")):
            connection.execute(insert(table).values({**row, "id": number, "alias": alias, "state": state, "ended_at": None}))
    opened.migrate()
    with opened.read() as connection:
        found = {move.id: move for move in moves.history(connection) if move.id > 100}
    assert {number: move.state for number, move in found.items()} == {101: "refused", 102: "open", 103: "done", 104: "open"}
    assert found[101].step == "ended" and found[101].ended_at and found[101].failure is not None
    assert found[101].failure.code == "superseded"


def test_newer_database_is_refused_and_left_alone(opened: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = with_another(tmp_path, "op.create_table('future', sa.Column('id', sa.Integer, primary_key=True))")
    with monkeypatch.context() as patched:
        patched.setattr(store, "_MIGRATIONS", newer)
        at_newest = Store(opened.engine.url.render_as_string(hide_password=False))
        at_newest.migrate()
        at_newest.close()
    with pytest.raises(SumikaError) as told:
        opened.migrate()
    assert told.value.code == "newer_database" and f"sumika db downgrade {REVISIONS[-1]}" in told.value.en
    assert schema_of(opened) == "9999" and inspect(opened.engine).has_table("future")


def test_migration_that_fails_changes_nothing(opened: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at(opened, "0003")
    before = contents(opened)
    failing = with_another(tmp_path, "op.execute('delete from moves'); op.execute('this is no SQL')")
    with monkeypatch.context() as patched:
        patched.setattr(store, "_MIGRATIONS", failing)
        with pytest.raises(Exception, match="syntax error"):
            opened.migrate()
    assert schema_of(opened) == "0003" and contents(opened) == before
    opened.migrate()
    assert within(before, contents(opened)) == before


def test_process_killed_in_the_midst_of_a_migration_changes_nothing(opened: Store, tmp_path: Path) -> None:
    at(opened, "0003")
    before = contents(opened)
    slow = with_another(tmp_path, "op.execute('delete from moves'); print('midst', flush=True); __import__('time').sleep(60)")
    url = opened.engine.url.render_as_string(hide_password=False)
    code = (
        "from pathlib import Path; from sumika.models import store\n"
        f"store._MIGRATIONS = Path({str(slow)!r}); store.Store({url!r}).migrate()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"midst\n"
    process.kill()
    process.wait()
    assert schema_of(opened) == "0003" and contents(opened) == before
    opened.migrate()
    assert within(before, contents(opened)) == before


def with_another(folder: Path, body: str) -> Path:
    """Our migrations and one more."""
    copy = folder / "migrations"
    shutil.copytree(ROOT / "sumika" / "models" / "migrations", copy)
    (copy / "versions" / "m9999_more.py").write_text(
        f"import sqlalchemy as sa\nfrom alembic import op\nrevision = '9999'\ndown_revision = '{REVISIONS[-1]}'\n"
        f"def upgrade():\n    {body}\ndef downgrade():\n    pass\n"
    )
    return copy


@pytest.mark.parametrize("begin", [None, "0002"])
def test_processes_that_start_at_once_change_the_schema_once(opened: Store, begin: str | None) -> None:
    if begin is not None:
        at(opened, begin)
    url = opened.engine.url.render_as_string(hide_password=False)
    code = f"import sys; from sumika.models.store import Store; s = Store({url!r}); sys.stdin.read(); s.migrate(); print('done')"
    starting = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(4)
    ]
    for process in starting:
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait(timeout=120) for process in starting] == [0] * 4
    assert schema_of(opened) == REVISIONS[-1]


@pytest.mark.parametrize("to", ["0007", "0009", "head", "base", "-1", "x'; drop table keys; --"])
def test_schema_that_is_none_to_go_back_to_is_told(opened: Store, to: str) -> None:
    at(opened, "0007")
    with pytest.raises(SumikaError) as told, opened.migrating() as (connection, config):
        upgrades.downgrade(connection, config, to)
    assert told.value.code == "no_such_schema" and schema_of(opened) == "0007"


def test_no_way_back_while_sumika_runs(opened: Store) -> None:
    opened.migrate()
    with opened.write() as connection:
        leases.take(connection, "supervisor", "me", 30)
    with pytest.raises(SumikaError) as told, opened.migrating() as (connection, config):
        upgrades.downgrade(connection, config, "0001")
    assert told.value.code == "still_running" and schema_of(opened) == REVISIONS[-1]


def test_sqlite_is_copied_before_its_schema_changes(tmp_path: Path) -> None:
    file = tmp_path / "sumika.db"
    with closing(Store(f"sqlite:///{file}")) as opened:
        at(opened, "0003")
        before = contents(opened)
        opened.migrate()
        opened.migrate()
    assert sorted(path.name for path in tmp_path.glob("*schema*")) == ["sumika.db.schema-0003"]
    kept = tmp_path / "sumika.db.schema-0003"
    assert kept.stat().st_mode & 0o777 == 0o600
    with closing(sqlite.connect(kept)) as raw:
        assert raw.execute("pragma integrity_check").fetchall() == [("ok",)]
    with closing(Store(f"sqlite:///{kept}")) as copied:
        assert schema_of(copied) == "0003" and contents(copied) == before


def test_schema_stays_where_no_copy_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with closing(Store(f"sqlite:///{tmp_path / 'sumika.db'}")) as opened:
        at(opened, "0003")
        with monkeypatch.context() as patched:
            patched.setattr("sumika.models.upgrades.os.replace", full)
            with pytest.raises(SumikaError) as told:
                opened.migrate()
        assert told.value.code == "no_copy" and "No space" in told.value.en and schema_of(opened) == "0003"
    assert {path.name for path in tmp_path.iterdir()} <= {"sumika.db", "sumika.db-wal", "sumika.db-shm"}


def test_owners_become_the_teams_that_bear_their_names_now(opened: Store) -> None:
    """What is older than its team was another's of the same name, and stays with administrators."""
    before, since, after = (f"2026-11-{day}T00:00:00.000000Z" for day in (10, 15, 20))
    key = ROWS["keys"] | {"role": "engineer", "previous_hash": None, "previous_until": None}
    rows: dict[str, list[dict[str, Any]]] = {
        "teams": [{"name": "sales", "title": "営業", "created_at": since}],
        "keys": [key | {"id": "k1", "created_at": after}, key | {"id": "k0", "hash": "0" * 64, "created_at": before}],
        "files": [ROWS["files"] | {"id": f"f{at[8:10]}", "owner": f"team:{team}", "created_at": at}
                  for team, at in (("sales", before), ("sales", after), ("gone", since))],
        "versions": [ROWS["versions"], ROWS["versions"] | {"id": 2, "name": "faq", "kind": "adapter", "base_id": 1, "folder": "faq/1"}],
        "aliases": [ROWS["aliases"], ROWS["aliases"] | {"name": "chat"}],
        "moves": [ROWS["moves"] | {"actor": "k1"}, ROWS["moves"] | {"id": 2, "alias": "chat", "actor": "cli:me"}],
        "jobs": [ROWS["jobs"] | {"id": n, "run": f"r{n}", "actor": actor, "version": version}
                 for n, actor, version in ((1, "k1", "faq@1"), (2, "cli:me", None), (3, "oidc:company:x", None), (4, "k0", None))],
        "orders": [ROWS["orders"] | {"owner": "team:sales", "job_id": 4, "asked": {"name": "mail"}, "created_at": after}],
    }  # fmt: skip
    with opened.migrating() as (connection, config):
        command.upgrade(config, "0007")
        for table in tables(connection):
            for row in rows.get(table.name, []):
                connection.execute(insert(table).values({name: value for name, value in row.items() if name in table.columns}))
    opened.migrate()

    def column(name: str, of: str, by: str = "id") -> dict[Any, Any]:
        with opened.read() as connection:
            return {row[0]: row[1] for row in connection.execute(text(f"select {by}, {name} from {of}"))}  # noqa: S608

    team = column("id", "teams", "name")["sales"]
    assert team.startswith("team-") and column("team_id", "keys") == {"k1": team, "k0": None}
    assert column("owner", "files") == {"f10": "team:sales", "f20": team, "f15": "team:gone"}
    assert column("owner", "jobs") == {1: team, 2: "operator", 3: "key:oidc:company:x", 4: team}
    assert column("alias", "jobs") == {1: None, 2: None, 3: None, 4: "mail"}
    assert column("owner", "versions") == {1: None, 2: team} and column("owner", "aliases", "name") == {"faq": team, "chat": None}
    with opened.migrating() as (connection, config):
        upgrades.downgrade(connection, config, "0007")
    assert column("owner", "files") == {"f10": "team:sales", "f20": "team:sales", "f15": "team:gone"}
