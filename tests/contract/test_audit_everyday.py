"""A year of a Sumika in one test: whatever is done by its own commands and routes leaves `audit verify` ok, after each step."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sumika.models import aliases, audit, backup, importing, jobs, keys, limits, moves, registry, signing, teams
from sumika.models.actor import Actor
from sumika.models.audit import Action, pruning
from sumika.models.audit.verify import verify
from sumika.models.bootstrap import open_store
from sumika.models.home import Home
from sumika.models.moves import Move
from sumika.models.settings import Settings
from sumika.models.upgrades import downgrade
from tests.conftest import write_adapter, write_base

ENGINEER = Actor("0123456789ab", "engineer", "192.0.2.7")


class Sumika:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = open_store(settings)

    @property
    def home(self) -> Home:
        return self.settings.layout

    def check(self, what: str) -> None:
        found = verify(self.store, self.home)
        assert found.ok and found.unsigned == 0 and not found.adopted, (what, found)

    def finish(self, move: Move) -> None:
        with self.store.write(by=Actor("system", "system")) as connection:
            aliases.finish(connection, moves.get(connection, move.id), None)

    def deploy(self, alias: str, version: registry.Version, owner: str | None = None) -> None:
        with self.store.write(by=ENGINEER) as connection:
            move = aliases.ask_deploy(connection, alias, version, actor=ENGINEER.name, reason="", owner=owner)
        self.finish(move)


@pytest.fixture
def sumika(url: str, home: Home) -> Sumika:
    return Sumika(Settings.model_validate({"home": home.root, "database_url": None if url.startswith("sqlite") else url}))


def test_log_verifies_after_each_everyday_act(sumika: Sumika, tmp_path: Path) -> None:
    store = sumika.store
    base = importing.import_base(store, sumika.home, "base", write_base(tmp_path / "base"))
    sumika.check("a base is imported")
    with store.write() as connection:
        team = teams.create(connection, "soumu", "総務部")
        _, short = keys.create(connection, "short", team="soumu", expires_at=datetime.now(UTC) + timedelta(milliseconds=50))
        _, turning = keys.create(connection, "turning", team="soumu", aliases=["faq"])
        limits.set_limits(connection, ("team", "soumu"), {"requests_per_minute": 5})
    for overlap in (timedelta(hours=1), timedelta(hours=2), timedelta(0)):
        with store.write(by=ENGINEER) as connection:
            keys.rotate(connection, turning.id, overlap)
        sumika.check("a key is rotated")
    time.sleep(0.1)
    sumika.check(f"{short.name} expired")

    versions = []
    for number, gate in enumerate(("passed", "refused", "none")):  # as the queue does: with an owner, by a child of its own
        with store.write(by=ENGINEER) as connection:
            jobs.submit(connection, "faq", f"faq-{number}", actor=ENGINEER.name, memory=1, owner=team.id, alias="faq")
        folder = write_adapter(tmp_path / f"faq-{number}", seed=number)
        versions.append(importing.import_adapter(store, sumika.home, "faq", folder, base=base.ref, max_lora_rank=16, gate=gate, owner=team.id))  # fmt: skip
        sumika.check("a training ended")
    sumika.deploy("faq", versions[0], owner=team.id)
    sumika.deploy("other", base)
    with store.write() as connection:
        aliases.assign(connection, "other", team.id)
        registry.assign(connection, versions[2], None)
    sumika.check("owners are assigned")
    with store.write() as connection:
        aliases.assign(connection, "other", None)
        aliases.remove(connection, "other", actor="a", reason="over")
    sumika.check("an alias is removed")
    sumika.deploy("other", versions[0])
    sumika.check("an alias is there again")
    with store.write() as connection:
        move = aliases.ask_canary(connection, "faq", versions[2], 10, actor="a", reason="")
    sumika.finish(move)
    sumika.check("a canary")
    with store.write() as connection:
        aliases.abort(connection, "faq", actor="a", reason="")
        registry.remove(connection, versions[1])
        keys.revoke(connection, turning.id)
    with store.write() as connection:
        teams.remove(connection, "soumu")
        teams.create(connection, "soumu", "同じ名前")
    sumika.check("a team is removed, and another has its name")

    assert pruning.prune(store, sumika.home, "2100-01-01T00:00:00.000000Z")
    sumika.check("what is old is pruned")
    for to in ("0010", "0009", "0004"):
        with store.write() as connection:
            audit.append(connection, Action.STORE_DOWNGRADE, to, outcome="asked")
        with store.migrating() as (connection, config):
            downgrade(connection, config, to)
        store.close()
        sumika = Sumika(sumika.settings)
        store = sumika.store
        with store.write() as connection:
            keys.create(connection, f"after-{to}")
        sumika.check(f"back to {to} and up again")

    by = signing.fingerprint(signing.show(sumika.home))
    for name in ("first", "second"):
        file = tmp_path / f"{name}.backup"
        backup.make(store, sumika.home, file, recipients=[])
        there = Settings(home=tmp_path / name)
        backup.restore(file, there.layout, None, key=by, by=ENGINEER)
        restored = Sumika(there)
        with restored.store.write() as connection:
            keys.create(connection, "first-act")
        restored.check("a backup came back")
        restored.store.close()
    store.close()
