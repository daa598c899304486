"""What `sumika doctor` tells of each database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert, text

from sumika.cli.checkup import gathered
from sumika.models import clock, leases, schema, upgrades
from sumika.models.bootstrap import open_store
from sumika.models.home import Home
from sumika.models.settings import Settings
from sumika.models.store import alembic_config


@pytest.fixture
def settings(url: str, home: Home) -> Settings:
    made = Settings.model_validate({"home": home.root, "database_url": None if url.startswith("sqlite") else url})
    open_store(made).close()
    return made


def levels(settings: Settings) -> dict[str, str]:
    return {finding.name: finding.level for finding in gathered.of_store(settings, deep=True)}


def test_store_as_it_should_be(settings: Settings) -> None:
    assert {name: level for name, level in levels(settings).items() if name != "port"} == dict.fromkeys(
        (
            "database",
            "clock",
            "schema",
            "audit",
            "weights",
            "weights_names",
            "weights_revisions",
            "supervisor",
            "audit_chain",
            "weights_hashes",
        ),
        "ok",
    ) | {"audit_witness": "warn"}


def test_gateway_without_a_supervisor(settings: Settings) -> None:
    store = open_store(settings)
    beat = {"id": "g", "pid": 1, "seen_revision": 0, "running": {}, "waiting": {}, "beat_at": clock.now()}
    with store.write() as connection:
        connection.execute(insert(schema.gateways).values(beat))
    assert levels(settings)["supervisor"] == "warn"
    with store.write() as connection:
        leases.take(connection, "supervisor", "me", 60)
    assert levels(settings)["supervisor"] == "ok"
    store.close()


def test_older_schema_is_told_and_left_alone(settings: Settings) -> None:
    older = upgrades.revisions(alembic_config())[0]
    store = open_store(settings)
    with store.migrating() as (connection, config):
        upgrades.downgrade(connection, config, older)
    assert levels(settings)["schema"] == "warn"
    with store.read() as connection:
        assert upgrades.current(connection) == older
    store.close()


def test_postgresql_that_does_not_keep_what_it_acknowledged(settings: Settings) -> None:
    if settings.database_url is None:
        return  # SQLite's synchronous is set by each of our connections
    store = open_store(settings)
    with store.write() as connection:
        connection.execute(text(f'alter database "{store.engine.url.database}" set synchronous_commit = off'))
    store.close()
    assert levels(settings)["database"] == "fail"


def test_clock_that_differs(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime.now(UTC) - timedelta(seconds=5)

    monkeypatch.setattr(gathered, "datetime", Late)
    assert levels(settings)["clock"] == ("ok" if settings.database_url is None else "fail")
