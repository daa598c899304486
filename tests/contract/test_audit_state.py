"""`audit verify` holds keys, aliases and versions against the log: whatever legal path made them is explained, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Connection, delete, insert, select, text, update

from sumika.models import aliases, audit, backup, importing, keys, moves, registry, schema, signing, teams
from sumika.models.audit import Action, adopting, chain, checkpoints, pruning, state
from sumika.models.audit.findings import Findings, Unexplained
from sumika.models.audit.state import Replay
from sumika.models.audit.verify import verify
from sumika.models.audit.witness import Witness
from sumika.models.bootstrap import open_store
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.moves import Move
from sumika.models.settings import Settings
from sumika.models.store import Store
from sumika.models.upgrades import downgrade
from tests.conftest import write_adapter, write_base

LATER = "2100-01-01T00:00:00.000000Z"
_k, _v, _a = schema.keys, schema.versions, schema.aliases


@pytest.fixture
def settings(url: str, home: Home) -> Settings:
    return Settings.model_validate({"home": home.root, "database_url": None if url.startswith("sqlite") else url})


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> None:
    """As releases before schema 0010 told of keys. To be named before `log`."""
    told = keys._told
    monkeypatch.setattr(
        keys, "_told", lambda key: {name: value for name, value in told(key).items() if name not in ("digest", "team_id")}
    )


@pytest.fixture
def log(settings: Settings, tmp_path: Path) -> Iterator[Store]:
    """A Sumika in which everything legal was done once."""
    store, home = open_store(settings), settings.layout
    base = importing.import_base(store, home, "base", write_base(tmp_path / "base"))
    first, second, third = (
        importing.import_adapter(
            store, home, "faq", write_adapter(tmp_path / f"faq-{n}", seed=n), base=base.ref, max_lora_rank=16
        )
        for n in range(3)
    )
    with store.write() as connection:
        teams.create(connection, "soumu", "総務部")
        soon = datetime.now(UTC) + timedelta(days=1)
        made = [
            keys.create(connection, "bot", team="soumu", aliases=["faq", "b"], endpoints=["chat"], sensitivity="public", expires_at=soon)[1],
            *(keys.create(connection, name, role="engineer")[1] for name in ("one", "two", "three")),
        ]  # fmt: skip
        for _ in range(2):
            keys.rotate(connection, made[0].id, timedelta(hours=1))
        keys.rotate(connection, made[1].id, timedelta(0))
        keys.revoke(connection, made[2].id)
        keys.note_uses(connection, {made[1].id: "2026-11-01T00:00:00.000000Z"})
        finish(connection, aliases.ask_deploy(connection, "faq", first, actor="a", reason=""))
        finish(connection, aliases.ask_canary(connection, "faq", second, 10, actor="a", reason=""))
        finish(connection, aliases.ask_canary(connection, "faq", second, 30, actor="a", reason=""))
        finish(connection, aliases.ask_promote(connection, "faq", actor="a", reason=""))
        finish(connection, aliases.ask_rollback(connection, "faq", actor="a", reason=""))
        finish(connection, aliases.ask_canary(connection, "faq", second, 20, actor="a", reason=""))
        aliases.abort(connection, "faq", actor="a", reason="")
        aliases.ask_deploy(connection, "faq", second, actor="a", reason="")
        aliases.abort(connection, "faq", actor="a", reason="")
        finish(connection, aliases.ask_canary(connection, "faq", second, 40, actor="a", reason=""))
        finish(connection, aliases.ask_deploy(connection, "other", base, actor="a", reason=""))
        registry.remove(connection, third)
        aliases.assign(connection, "other", "team-1")
        aliases.assign(connection, "faq", "team-1")
        for name in ("gone", "back"):
            finish(connection, aliases.ask_deploy(connection, name, base, actor="a", reason=""))
            aliases.remove(connection, name, actor="a", reason="")
        finish(connection, aliases.ask_deploy(connection, "back", first, actor="a", reason=""))
    yield store
    store.close()


def finish(connection: Connection, move: Move) -> None:
    aliases.finish(connection, moves.get(connection, move.id), None)


def found(store: Store, settings: Settings) -> Findings:
    return verify(store, settings.layout)


def test_every_legal_path_is_explained_before_and_after_pruning(log: Store, settings: Settings) -> None:
    told = found(log, settings)
    assert told.ok and not told.unexplained and not told.adopted
    for _ in range(2):
        assert pruning.prune(log, settings.layout, LATER) > 0
        with log.write() as connection:
            _, key = keys.create(connection, "more")
            keys.rotate(connection, key.id, timedelta(hours=1))
        told = found(log, settings)
        assert told.ok and told.first > 1 and not told.adopted


def made_up_key(connection: Connection) -> str:
    row = dict(connection.execute(select(_k).where(_k.c.name == "admin")).mappings().one())
    connection.execute(
        insert(_k).values(row | {"id": "0123456789ab", "hash": "f" * 64, "created_at": "2020-01-01T00:00:00.000000Z"})
    )
    return "0123456789ab"


def changed_key(name: str, **values: object) -> Callable[[Connection], str]:
    def change(connection: Connection) -> str:
        connection.execute(update(_k).where(_k.c.name == name).values(**values))
        return str(connection.scalar(select(_k.c.id).where(_k.c.name == name)))

    return change


def removed_key(connection: Connection) -> str:
    id = connection.scalar(select(_k.c.id).where(_k.c.name == "one"))
    connection.execute(delete(_k).where(_k.c.id == id))
    return str(id)


def changed_version(**values: object) -> Callable[[Connection], str]:
    def change(connection: Connection) -> str:
        connection.execute(update(_v).where(_v.c.name == "faq", _v.c.number == 2).values(**values))
        return "faq@2"

    return change


def made_up_version(connection: Connection) -> str:
    row = dict(connection.execute(select(_v).where(_v.c.name == "faq", _v.c.number == 1)).mappings().one())
    row["id"] = 900
    connection.execute(insert(_v).values(row | {"number": 9, "folder": "faq-9"}))
    return "faq@9"


def unremoved_version(connection: Connection) -> str:
    connection.execute(update(_v).where(_v.c.name == "faq", _v.c.number == 3).values(removed_at=None))
    return "faq@3"


def moved_alias(connection: Connection) -> str:
    to = connection.scalar(select(_v.c.id).where(_v.c.name == "faq", _v.c.number == 2))
    connection.execute(update(_a).where(_a.c.name == "other").values(version_id=to))
    return "other"


def widened_canary(connection: Connection) -> str:
    connection.execute(update(_a).where(_a.c.name == "faq").values(canary_share=99))
    return "faq"


def made_up_alias(connection: Connection) -> str:
    to = connection.scalar(select(_v.c.id).where(_v.c.name == "base"))
    connection.execute(insert(_a).values(name="mine", version_id=to, generation=1, moved_at="2020-01-01T00:00:00.000000Z"))
    return "mine"


def made_up_alias_again(connection: Connection) -> str:
    made_up_alias(connection)
    connection.execute(update(_a).where(_a.c.name == "mine").values(name="gone"))
    return "gone"


def removed_alias(connection: Connection) -> str:
    connection.execute(delete(_a).where(_a.c.name == "back"))
    return "back"


TAMPERS: dict[str, Callable[[Connection], str]] = {
    "a key put in": made_up_key,
    "a key's secret": changed_key("one", hash="e" * 64),
    "an administrator's secret": changed_key("admin", hash="e" * 64),
    "a second secret": changed_key("admin", previous_hash="e" * 64, previous_until=LATER),
    "a longer overlap": changed_key("bot", previous_until=LATER),
    "a role": changed_key("one", role="admin"),
    "a team": changed_key("bot", team=None),
    "a team by its id": changed_key("bot", team_id="team-0123456789abcdef"),
    "wider aliases": changed_key("bot", aliases=["faq", "other"]),
    "all endpoints": changed_key("bot", endpoints=None),
    "sensitivity": changed_key("bot", sensitivity="confidential"),
    "no expiry": changed_key("bot", expires_at=None),
    "not revoked": changed_key("two", revoked_at=None),
    "a key taken out": removed_key,
    "a version's files": changed_version(digest="d" * 64),
    "a gate": changed_version(gate="passed"),
    "a version put in": made_up_version,
    "a version brought back": unremoved_version,
    "an alias moved": moved_alias,
    "a canary widened": widened_canary,
    "an alias put in": made_up_alias,
    "an alias that was removed": made_up_alias_again,
    "an alias taken out": removed_alias,
}


def unexplained(connection: Connection) -> tuple[Unexplained, ...]:
    replay = Replay(whole=chain.head(connection).floor == 0)
    for row in chain.stored(connection):
        replay.take(chain.read(row))
    return replay.differences(state.of(connection))


@pytest.mark.parametrize("pruned", [False, True])
def test_each_change_past_sumika_is_named(log: Store, settings: Settings, pruned: bool) -> None:
    if pruned:
        pruning.prune(log, settings.layout, LATER)
    for what, tamper in TAMPERS.items():
        with log.engine.connect().execution_options(sumika_write=True) as connection, connection.begin() as transaction:
            assert not unexplained(connection)
            named = tamper(connection)
            told = unexplained(connection)
            transaction.rollback()
        assert [one.id for one in told] == [named], (what, told)
        assert told[0].text("en") and told[0].text("ja")


def test_key_put_in_fails_verify_and_is_not_pruned_into_the_truth(log: Store, settings: Settings) -> None:
    with log.engine.connect().execution_options(sumika_write=True) as connection, connection.begin():
        named = made_up_key(connection)
    told = found(log, settings)
    assert not told.ok and told.as_dict()["unexplained"][0]["id"] == named
    with pytest.raises(SumikaError) as refused:
        pruning.prune(log, settings.layout, LATER)
    assert refused.value.code == "audit_broken" and named in refused.value.en


@pytest.mark.usefixtures("older")
def test_upgrade_takes_in_what_older_rows_do_not_tell_and_says_so(log: Store, settings: Settings) -> None:
    """As a home of an older release: its rows of keys have no digests, and some keys are older than the log."""
    log.close()
    log = Store(settings.store_url)
    with log.migrating() as (connection, config):
        downgrade(connection, config, "0009")
        made_up_key(connection)
    settings.layout.last_checkpoint.unlink()
    log.close()
    again = open_store(settings)
    told = found(again, settings)
    assert told.ok and told.adopted == 1
    with again.engine.connect().execution_options(sumika_write=True) as connection, connection.begin():
        changed_key("one", hash="e" * 64)(connection)
    assert not found(again, settings).ok
    again.close()


def set_back(store: Store) -> None:
    """Whoever can write the database feigns an upgrade to come."""
    with store.migrating() as (connection, config):
        downgrade(connection, config, "0009")


def cut(store: Store, home: Home, kept: int) -> None:
    """Whoever can write the database and the file of checkpoints takes the end off both."""
    lines = home.checkpoints.read_bytes().splitlines(keepends=True)
    last = checkpoints.opened(lines[kept - 1].rstrip())
    assert last is not None
    with store.engine.connect().execution_options(sumika_write=True) as connection, connection.begin():
        for statement in DISARM[store.engine.dialect.name]:
            connection.execute(text(statement))
        connection.execute(delete(schema.audit).where(schema.audit.c.seq > last.seq))
        connection.execute(update(schema.audit_head).values(seq=last.seq, hash=last.hash))
        connection.execute(update(_k).where(_k.c.name == "last").values(revoked_at=None))
    home.checkpoints.write_bytes(b"".join(lines[:kept]))


DISARM = {"sqlite": ["DROP TRIGGER audit_no_delete"], "postgresql": ["DROP TRIGGER audit_no_change ON audit"]}


def test_key_put_in_is_not_made_true_by_an_upgrade_that_was_none(log: Store, settings: Settings) -> None:
    with log.engine.connect().execution_options(sumika_write=True) as connection, connection.begin():
        named = made_up_key(connection)
    set_back(log)
    open_store(settings).close()
    assert named in [one.id for one in found(log, settings).unexplained]


@pytest.mark.parametrize("unlinked", [False, True])
def test_cut_tail_is_not_signed_over_by_an_upgrade_that_was_none(log: Store, settings: Settings, unlinked: bool) -> None:
    with log.write() as connection:
        _, key = keys.create(connection, "last")
    with log.write() as connection:
        keys.revoke(connection, key.id)
    cut(log, settings.layout, len(settings.layout.checkpoints.read_bytes().splitlines()) - 1)
    if unlinked:
        settings.layout.last_checkpoint.unlink()
    set_back(log)
    open_store(settings).close()
    assert not found(log, settings).ok


def test_cut_tail_is_not_signed_over_for_a_feigned_upgrade_elsewhere(log: Store, settings: Settings) -> None:
    with log.write() as connection:
        keys.create(connection, "last")
    cut(log, settings.layout, len(settings.layout.checkpoints.read_bytes().splitlines()) - 1)
    settings.layout.last_checkpoint.unlink()
    with Store(settings.store_url).write() as connection:
        connection.execute(delete(_k).where(_k.c.name == "last"))
        state.tell(connection, "upgrade from schema 0009")
    open_store(settings).close()
    assert not found(log, settings).ok


@pytest.mark.parametrize("to", ["0009", "0004"])
@pytest.mark.parametrize("pruned", [False, True])
def test_way_back_and_forth_is_explained(log: Store, settings: Settings, pruned: bool, to: str) -> None:
    if pruned:
        pruning.prune(log, settings.layout, LATER)
    with log.write() as connection:
        audit.append(connection, Action.STORE_DOWNGRADE, to, outcome="asked")
    with log.migrating() as (connection, config):
        downgrade(connection, config, to)
    again = open_store(settings)
    with again.write() as connection:
        keys.create(connection, "more")
    told = found(again, settings)
    again.close()
    assert told.ok and told.unsigned == 0 and not told.adopted, told


@pytest.mark.usefixtures("older")
def test_home_of_another_host_is_taken_in_once_after_the_upgrade(log: Store, settings: Settings, tmp_path: Path) -> None:
    """Several hosts, each with a home of its own, on one database that one of them upgraded."""
    other = Home(tmp_path / "other")
    other.create()
    Witness(other).look(log)
    with log.migrating() as (connection, config):
        downgrade(connection, config, "0009")
    for home in (settings.layout, other):
        home.last_checkpoint.unlink()
    open_store(settings).close()
    assert not verify(log, other).ok
    adopting.adopt_home(log, other)
    Witness(other).look(log)
    assert verify(log, other).ok and found(log, settings).ok
    lines = other.checkpoints.read_bytes().splitlines(keepends=True)
    other.checkpoints.write_bytes(lines[0])  # cut back to before the upgrade
    other.last_checkpoint.unlink()
    adopting.adopt_home(log, other)
    assert not verify(log, other).ok


def test_home_that_was_never_upgraded_is_not_taken_in(log: Store, settings: Settings) -> None:
    settings.layout.last_checkpoint.unlink()
    open_store(settings).close()
    assert not found(log, settings).ok


def test_restored_backup_is_explained(log: Store, settings: Settings, tmp_path: Path) -> None:
    backup.make(log, settings.layout, tmp_path / "a.backup", recipients=[])
    there = Settings(home=tmp_path / "there" / "home")
    by = signing.fingerprint(signing.show(settings.layout))
    backup.restore(tmp_path / "a.backup", there.layout, None, key=by)
    store = open_store(there)
    assert found(store, there).ok
    store.close()
