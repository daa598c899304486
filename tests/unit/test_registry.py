from __future__ import annotations

from pathlib import Path

import pytest

from sumika.models import aliases, importing, moves, registry
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.names import VersionRef
from sumika.models.registry import Version
from sumika.models.store import Store
from tests.conftest import MakeAdapter


@pytest.fixture
def base(store: Store, home: Home, base_folder: Path) -> Version:
    return importing.import_base(store, home, "base", base_folder)


@pytest.fixture
def pair(store: Store, home: Home, base: Version, make_adapter: MakeAdapter) -> list[Version]:
    return [
        importing.import_adapter(store, home, "faq", make_adapter(f"a{i}", seed=i), base=base.ref, max_lora_rank=16)
        for i in (1, 2)
    ]


def move_to(store: Store, alias: str, version: Version) -> None:
    with store.write() as connection:
        aliases.finish(connection, aliases.ask_deploy(connection, alias, version, actor="me", reason=""), None)


def code_of(told: pytest.ExceptionInfo[SumikaError]) -> str:
    return told.value.code


def test_versions_count_up_and_know_their_base(pair: list[Version], base: Version) -> None:
    assert [str(v.ref) for v in pair] == ["faq@1", "faq@2"]
    assert all(v.base == base.ref and v.engine_base_id == base.id for v in pair)
    assert base.base is None and base.engine_base_id == base.id


def test_name_of_a_base_is_not_given_to_an_adapter(store: Store, home: Home, base: Version, make_adapter: MakeAdapter) -> None:
    with pytest.raises(SumikaError) as told:
        importing.import_adapter(store, home, "base", make_adapter(), base=base.ref, max_lora_rank=16)
    assert code_of(told) == "wrong_kind"


def test_adapter_on_an_adapter_or_on_nothing_is_refused(
    store: Store, home: Home, pair: list[Version], make_adapter: MakeAdapter
) -> None:
    with pytest.raises(SumikaError):
        importing.import_adapter(store, home, "x", make_adapter("b"), base=pair[0].ref, max_lora_rank=16)
    with pytest.raises(SumikaError) as told:
        importing.import_adapter(store, home, "x", make_adapter("c"), base=VersionRef("none", 1), max_lora_rank=16)
    assert code_of(told) == "not_found"


def test_version_in_use_is_not_removed(store: Store, base: Version, pair: list[Version]) -> None:
    move_to(store, "faq", pair[0])
    for version in (base, pair[0]):
        with store.write() as connection, pytest.raises(SumikaError) as told:
            registry.remove(connection, version)
        assert code_of(told) == "in_use"
    with store.write() as connection:
        registry.remove(connection, pair[1])
    with store.read() as connection, pytest.raises(SumikaError):
        registry.get(connection, pair[1].ref)


def test_number_of_a_removed_version_is_not_given_again(
    store: Store, home: Home, base: Version, pair: list[Version], make_adapter: MakeAdapter
) -> None:
    with store.write() as connection:
        registry.remove(connection, pair[1])
    again = importing.import_adapter(store, home, "faq", make_adapter("d", seed=9), base=base.ref, max_lora_rank=16)
    assert again.ref == VersionRef("faq", 3)


def test_move_made_from_an_old_look_loses(store: Store, pair: list[Version]) -> None:
    move_to(store, "faq", pair[0])
    with store.write() as connection:
        late = aliases.ask_deploy(connection, "faq", pair[0], actor="late", reason="")
        moves.refuse(connection, late, SumikaError("x", "x", "x"))
    move_to(store, "faq", pair[1])
    with store.write() as connection, pytest.raises(SumikaError) as told:
        aliases.finish(connection, late, None)
    assert code_of(told) == "moved_meanwhile" and "faq@2" in told.value.en
    with store.read() as connection:
        alias = aliases.find(connection, "faq")
    assert alias is not None and alias.version_id == pair[1].id and alias.generation == 2


def test_second_move_while_one_is_open_is_told_by_whom(store: Store, pair: list[Version]) -> None:
    with store.write() as connection:
        aliases.ask_deploy(connection, "faq", pair[0], actor="sato", reason="")
        with pytest.raises(SumikaError) as told:
            aliases.ask_deploy(connection, "faq", pair[1], actor="mori", reason="")
    assert told.value.status == 409 and "sato" in told.value.en and "faq@1" in told.value.ja


def test_rollback_twice_goes_one_step_back_and_no_further(store: Store, pair: list[Version]) -> None:
    move_to(store, "faq", pair[0])
    with store.write() as connection, pytest.raises(SumikaError) as told:
        aliases.ask_rollback(connection, "faq", actor="me", reason="")
    assert code_of(told) == "nothing_before"
    move_to(store, "faq", pair[1])
    with store.write() as connection:
        move = aliases.ask_rollback(connection, "faq", actor="me", reason="")
        assert move.to_ref == pair[0].ref
        aliases.finish(connection, move, None)
    with store.write() as connection, pytest.raises(SumikaError):
        aliases.ask_rollback(connection, "faq", actor="me", reason="")


def test_version_that_failed_its_gate_needs_an_override_with_a_reason(
    store: Store, home: Home, base: Version, make_adapter: MakeAdapter
) -> None:
    weak = importing.import_adapter(store, home, "weak", make_adapter("w"), base=base.ref, max_lora_rank=16, gate="refused")
    with store.write() as connection:
        for override, reason in ((False, "why"), (True, "")):
            with pytest.raises(SumikaError) as told:
                aliases.ask_deploy(connection, "weak", weak, actor="me", reason=reason, override=override)
            assert code_of(told) == "gate_refused"
        assert aliases.ask_deploy(connection, "weak", weak, actor="me", reason="a trial", override=True).reason == "a trial"
