"""A share of the keys gets another version, the same keys each time; then everybody does, or nobody."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sumika.models import aliases, moves
from sumika.models.errors import SumikaError
from sumika.models.moves import Move
from sumika.models.registry import Version
from tests.integration.conftest import Stack, finish, start, until

SHARE = 40


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    started = start(tmp_path_factory.mktemp("canary"))
    yield started
    started.script()
    finish(started)


@pytest.fixture(scope="module")
def secrets(shared: Stack) -> dict[str, str]:
    """Twenty apps' keys: id → secret."""
    return {key_id: secret for secret, key_id in (shared.new_key() for _ in range(20))}


def two(stack: Stack, alias: str, seed: int) -> tuple[Version, Version]:
    base = stack.base()
    first, second = (stack.adapter(alias, base, seed=seed + i, proven=True) for i in range(2))
    stack.deploy(alias, first)
    return first, second


def answers(stack: Stack, alias: str, secrets: dict[str, str]) -> dict[str, str]:
    """Which version each key gets, as the answer itself says and as its header says."""
    got = {}
    for key_id, secret in secrets.items():
        with stack.client(secret) as client:
            response = client.post("/v1/chat/completions", json={"model": alias, "messages": [{"role": "user", "content": "x"}]})
        assert response.status_code == 200, response.text
        assert response.json()["model"] == response.headers["x-sumika-version"]
        got[key_id] = response.headers["x-sumika-version"]
    return got


def expected(alias: str, secrets: dict[str, str], share: int, first: Version, second: Version) -> dict[str, str]:
    return {key: str((second if aliases.has_canary(alias, key, share) else first).ref) for key in secrets}


def started(stack: Stack, alias: str, version: Version, share: int) -> Move:
    move = stack.ended(stack.canary(alias, version, share))
    assert move.state == "done", move.error
    return move


def seen(stack: Stack, alias: str, secrets: dict[str, str], versions: dict[str, str]) -> None:
    until(lambda: answers(stack, alias, secrets) == versions, within=10, what="the share is as asked")
    assert answers(stack, alias, secrets) == versions, "and stays so"


def test_share_of_keys_gets_the_canary_and_promote_gives_it_to_all(shared: Stack, secrets: dict[str, str]) -> None:
    first, second = two(shared, "faq", 1)
    started(shared, "faq", second, SHARE)
    split = expected("faq", secrets, SHARE, first, second)
    assert 2 <= list(split.values()).count(str(second.ref)) <= 16, "twenty keys at 40 %"
    seen(shared, "faq", secrets, split)
    started(shared, "faq", second, 90)
    wider = expected("faq", secrets, 90, first, second)
    assert all(wider[key] == str(second.ref) for key, version in split.items() if version == str(second.ref))
    seen(shared, "faq", secrets, wider)
    with shared.store.write() as connection:
        move = aliases.ask_promote(connection, "faq", actor="test", reason="no complaints")
    assert shared.ended(move).state == "done"
    seen(shared, "faq", secrets, dict.fromkeys(secrets, str(second.ref)))
    with shared.store.write() as connection:
        back = aliases.ask_rollback(connection, "faq", actor="test", reason="")
    assert back.to_ref == first.ref and shared.ended(back).state == "done"


def test_abort_takes_the_canary_from_all_at_once_and_history_tells(shared: Stack, secrets: dict[str, str]) -> None:
    first, second = two(shared, "stop", 11)
    assert started(shared, "stop", second, SHARE).canary is not None, "the proof's figures are kept"
    with shared.store.write() as connection:
        move = aliases.abort(connection, "stop", actor="sato", reason="strange answers")
    assert (move.kind, move.state, move.from_ref, move.to_ref) == ("abort", "done", second.ref, first.ref)
    seen(shared, "stop", secrets, dict.fromkeys(secrets, str(first.ref)))
    with shared.store.read() as connection:
        kinds = [(m.kind, m.share, m.reason) for m in moves.history(connection, "stop")]
    assert kinds[:2] == [("abort", None, "strange answers"), ("canary", SHARE, "")]
    until(lambda: str(second.ref) not in shared.engine_of(first).adapters, what="the canary is unloaded")


def test_canary_that_is_not_proven_takes_no_share(shared: Stack, secrets: dict[str, str]) -> None:
    first, idle = two(shared, "idle", 21)
    shared.script(as_base=True)
    move = shared.ended(shared.canary("idle", idle, SHARE))
    shared.script()
    assert move.state == "refused" and move.error is not None and move.error["code"] == "canary_base"
    seen(shared, "idle", secrets, dict.fromkeys(secrets, str(first.ref)))


def test_canary_on_another_base_whose_engine_is_lost_costs_nobody_an_answer(shared: Stack, secrets: dict[str, str]) -> None:
    import os
    import signal

    first, second = shared.base("plain", seed=31), shared.base("plain", seed=32)
    shared.deploy("plain", first)
    started(shared, "plain", second, SHARE)
    seen(shared, "plain", secrets, expected("plain", secrets, SHARE, first, second))
    pid = shared.engine_of(second).pid
    assert pid is not None
    shared.script(refuse_start=str(second.ref))
    os.kill(pid, signal.SIGKILL)
    until(lambda: set(answers(shared, "plain", secrets).values()) == {str(first.ref)}, what="all get the main version")
    shared.script()
    with shared.store.write() as connection:
        aliases.abort(connection, "plain", actor="test", reason="")
    until(lambda: all(e.base_id != second.id for e in shared.engines()), what="the canary's engine ends")


def test_moves_that_make_no_sense_beside_a_canary_are_refused(shared: Stack) -> None:
    first, second = two(shared, "sense", 41)
    third = shared.adapter("sense", shared.base(), seed=43, proven=True)

    def refused(ask: str, *more: object) -> str:
        with shared.store.write() as connection, pytest.raises(SumikaError) as told:
            getattr(aliases, ask)(connection, "sense", *more, actor="test", reason="")
        return told.value.code

    assert refused("ask_promote") == "no_canary" and refused("abort") == "nothing_to_abort"
    assert refused("ask_canary", first, 10) == "same_version"
    assert refused("ask_canary", second, 0) == refused("ask_canary", second, 100) == "bad_share"
    started(shared, "sense", second, 10)
    assert refused("ask_deploy", third) == refused("ask_rollback") == refused("ask_canary", third, 10) == "canary_running"


def test_open_move_is_aborted_and_ends_in_the_old_version(shared: Stack) -> None:
    first, second = two(shared, "slow", 51)
    shared.script(load_delay_s=1.5)
    move = shared.ask("slow", second)
    with shared.store.write() as connection:
        ended = aliases.abort(connection, "slow", actor="mori", reason="wrong one")
    assert ended.id == move.id and ended.state == "refused" and ended.error is not None and "mori" in ended.error["en"]
    shared.script()
    until(lambda: shared.engine_of(first).adapters.count(str(second.ref)) == 0, what="what was loading is unloaded")
    assert shared.served("slow") == str(first.ref)
