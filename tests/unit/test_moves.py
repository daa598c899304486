"""Moves of aliases over versions that come and go."""

from __future__ import annotations

from pathlib import Path

import pytest

from sumika.models import aliases, importing, moves, registry
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.moves import Move
from sumika.models.names import VersionRef
from sumika.models.registry import Version
from sumika.models.store import Store
from tests.conftest import MakeAdapter, write_base


@pytest.fixture
def base(store: Store, home: Home, base_folder: Path) -> Version:
    return importing.import_base(store, home, "base", base_folder)


@pytest.fixture
def three(store: Store, home: Home, base: Version, make_adapter: MakeAdapter) -> list[Version]:
    return [
        importing.import_adapter(store, home, "faq", make_adapter(f"a{i}", seed=i), base=base.ref, max_lora_rank=16)
        for i in (1, 2, 3)
    ]


def deploy(store: Store, version: Version, alias: str = "faq") -> Move:
    with store.write() as connection:
        move = aliases.ask_deploy(connection, alias, version, actor="me", reason="")
        aliases.finish(connection, move, None)
        return moves.get(connection, move.id)


def roll_back(store: Store, alias: str = "faq") -> VersionRef:
    with store.write() as connection:
        move = aliases.ask_rollback(connection, alias, actor="me", reason="")
        aliases.finish(connection, move, None)
        return move.to_ref


def refused(store: Store, alias: str = "faq") -> str:
    with store.write() as connection, pytest.raises(SumikaError) as told:
        aliases.ask_rollback(connection, alias, actor="me", reason="")
    return told.value.code


def test_rollback_walks_back_through_the_deployments(store: Store, three: list[Version]) -> None:
    for version in three:
        deploy(store, version)
    assert roll_back(store) == three[1].ref
    assert roll_back(store) == three[0].ref
    assert refused(store) == "nothing_before"


def test_rollback_after_the_same_version_was_deployed_twice_leaves_it(store: Store, three: list[Version]) -> None:
    for version in (three[0], three[1], three[1]):
        deploy(store, version)
    assert roll_back(store) == three[0].ref


def test_rollback_of_a_first_deployment_made_twice_is_refused(store: Store, three: list[Version]) -> None:
    deploy(store, three[0])
    deploy(store, three[0])
    assert refused(store) == "nothing_before"


def test_rollback_to_a_version_removed_meanwhile_is_refused(store: Store, three: list[Version]) -> None:
    deploy(store, three[0])
    deploy(store, three[1])
    with store.write() as connection:
        registry.remove(connection, three[0])
    assert refused(store) in ("not_found", "nothing_before")
    with store.read() as connection:
        assert moves.list_open(connection) == []


def test_rollback_of_an_unknown_alias_is_refused(store: Store, three: list[Version]) -> None:
    assert refused(store, "nothing") == "not_found"


def test_version_that_an_open_move_wants_is_not_removed(store: Store, three: list[Version]) -> None:
    with store.write() as connection:
        aliases.ask_deploy(connection, "faq", three[0], actor="me", reason="")
        with pytest.raises(SumikaError) as told:
            registry.remove(connection, three[0])
    assert told.value.code == "in_use"


def test_move_that_is_refused_leaves_alias_and_history_true(store: Store, three: list[Version]) -> None:
    deploy(store, three[0])
    with store.write() as connection:
        move = aliases.ask_deploy(connection, "faq", three[1], actor="me", reason="")
        moves.refuse(connection, move, SumikaError("x", "no", "いいえ"))
    with store.read() as connection:
        alias, newest = aliases.find(connection, "faq"), moves.history(connection, "faq")[0]
    assert alias is not None and (alias.version_id, alias.generation) == (three[0].id, 1)
    assert (newest.state, newest.error, newest.ended_at is not None) == (
        "refused",
        {"code": "x", "en": "no", "ja": "いいえ"},
        True,
    )
    assert refused(store) == "nothing_before"


def test_move_of_an_alias_made_meanwhile_loses(store: Store, three: list[Version]) -> None:
    with store.write() as connection:
        late = aliases.ask_deploy(connection, "faq", three[0], actor="late", reason="")
        moves.refuse(connection, late, SumikaError("x", "x", "x"))
    deploy(store, three[1])
    with store.write() as connection, pytest.raises(SumikaError) as told:
        aliases.finish(connection, late, None)
    assert told.value.code == "moved_meanwhile"


@pytest.mark.parametrize("name", ["", "a/b", "A", "faq@1", "latest", "ｆａｑ", "x" * 65])
def test_alias_with_a_bad_name_is_refused(store: Store, three: list[Version], name: str) -> None:
    with store.write() as connection, pytest.raises(SumikaError) as told:
        aliases.ask_deploy(connection, name, three[0], actor="me", reason="")
    assert told.value.code == "bad_name"


def test_same_adapter_on_another_base_is_another_version(
    store: Store, home: Home, base: Version, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    other = importing.import_base(store, home, "other", write_base(tmp_path / "other", seed=5))
    files = make_adapter()
    on_first = importing.import_adapter(store, home, "faq", files, base=base.ref, max_lora_rank=16)
    on_other = importing.import_adapter(store, home, "faq", files, base=other.ref, max_lora_rank=16)
    assert on_first.base == base.ref and on_other.base == other.ref
    again = importing.import_adapter(store, home, "faq", files, base=base.ref, max_lora_rank=16)
    assert again == on_first


def test_removed_version_imported_again_is_new(store: Store, home: Home, base_folder: Path) -> None:
    first = importing.import_base(store, home, "base", base_folder)
    with store.write() as connection:
        registry.remove(connection, first)
    second = importing.import_base(store, home, "base", base_folder)
    assert second.ref.number == 2 and second.digest == first.digest and second.folder != first.folder


def test_alias_that_was_removed_and_made_again_begins_anew(store: Store, three: list[Version]) -> None:
    for version in three[:2]:
        deploy(store, version)
    with store.write() as connection:
        aliases.remove(connection, "faq", actor="me", reason="")
        assert aliases.list_all(connection) == [] and len(moves.history(connection, "faq")) == 2
        registry.remove(connection, three[0])
    deploy(store, three[1])
    assert refused(store) == "nothing_before"
    deploy(store, three[2])
    assert roll_back(store) == three[1].ref


def test_alias_with_a_canary_is_not_removed(store: Store, three: list[Version]) -> None:
    deploy(store, three[0])
    with store.write() as connection:
        move = aliases.ask_canary(connection, "faq", three[1], 10, actor="me", reason="")
        with pytest.raises(SumikaError) as told:
            aliases.remove(connection, "faq", actor="me", reason="")
        assert told.value.code == "move_open"
        aliases.finish(connection, move, None)
        with pytest.raises(SumikaError) as told:
            aliases.remove(connection, "faq", actor="me", reason="")
        assert told.value.code == "canary_running"


@pytest.mark.parametrize("way", ["rollback", "promote"])
def test_way_back_or_on_to_a_version_that_failed_its_evaluation_asks_again(
    store: Store, home: Home, three: list[Version], make_adapter: MakeAdapter, way: str
) -> None:
    bad = importing.import_adapter(
        store, home, "faq", make_adapter("bad", seed=9), base=three[0].base or three[0].ref, max_lora_rank=16, gate="refused"
    )
    with store.write() as connection:
        if way == "rollback":
            for version in (bad, three[0]):
                asked = aliases.ask_deploy(connection, "faq", version, actor="chief", reason="known", override=True)
                aliases.finish(connection, asked, None)
        else:
            aliases.finish(connection, aliases.ask_deploy(connection, "faq", three[0], actor="me", reason=""), None)
            asked = aliases.ask_canary(connection, "faq", bad, 10, actor="chief", reason="known", override=True)
            aliases.finish(connection, asked, None)
    ask = aliases.ask_rollback if way == "rollback" else aliases.ask_promote
    for said in ({}, {"override": True}):  # an override needs its reason
        with store.write() as connection, pytest.raises(SumikaError) as told:
            ask(connection, "faq", actor="me", reason="", **said)
        assert told.value.code == "gate_refused"
    with store.write() as connection:
        assert ask(connection, "faq", actor="chief", reason="known", override=True).to_ref == bad.ref
