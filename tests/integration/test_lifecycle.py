"""Starts and ends of the stack and of engines when something about them is wrong: told, bounded, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sumika.models import aliases, canary, keys
from tests.conftest import write_adapter
from tests.integration.conftest import Stack, finish, start, until


def alive(pid: int | None) -> bool:
    try:
        return pid is not None and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    started = start(tmp_path_factory.mktemp("shared"))
    yield started
    started.script()
    finish(started)


@pytest.fixture(autouse=True)
def _no_faults_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "shared" in request.fixturenames:
        request.getfixturevalue("shared").script()


def test_stack_ended_while_an_engine_retires_leaves_no_engine(tmp_path: Path) -> None:
    stack = start(tmp_path, SUMIKA_ENGINE__STOP_TIMEOUT_S="0")
    first, second = stack.base("one", seed=1), stack.base("two", seed=2)
    stack.script(ignore_sigterm=True)
    stack.deploy("talk", first)
    old = stack.engine_of(first)
    stack.deploy("talk", second)
    until(lambda: any(e.base_id == first.id and e.state == "stopping" for e in stack.engines()), what="the old one retires")
    assert alive(old.pid)
    stack.script()
    finish(stack)
    assert not alive(old.pid)


def test_stack_killed_takes_its_children_and_engines_along(tmp_path: Path) -> None:
    stack = start(tmp_path)
    base = stack.base()
    stack.deploy("talk", base)
    pids = [stack.engine_of(base).pid, stack.role_pid("gateway"), stack.role_pid("supervise")]
    stack.process.kill()
    stack.process.wait()
    until(lambda: not any(alive(pid) for pid in pids), what="all are gone")
    stack.store.close()
    again = start(tmp_path)
    until(lambda: again.chat("talk").status_code == 200, what="serving again")
    finish(again)


def test_engine_command_that_is_not_there_is_told_and_ends_nothing(tmp_path: Path) -> None:
    stack = start(tmp_path, SUMIKA_ENGINE__COMMAND=json.dumps(["/nowhere/python", "-m", "vllm"]))
    supervisor = stack.role_pid("supervise")
    move = stack.ended(stack.ask("talk", stack.base()))
    assert move.state == "refused" and move.error is not None
    assert move.error["code"] == "engine_failed" and "/nowhere/python" in move.error["en"]
    assert stack.role_pid("supervise") == supervisor, "the supervisor met its end with it"
    finish(stack)


def test_model_folder_taken_away_lets_the_engine_serve_on_and_its_restart_is_told(shared: Stack) -> None:
    stack = shared
    base, other = stack.base("away", seed=3), stack.base()
    stack.deploy("away", base)
    stack.deploy("steady", other)
    supervisor, engine = stack.role_pid("supervise"), stack.engine_of(base)
    folder = stack.settings.layout.artifacts / base.folder
    shutil.move(folder, stack.work / "away")
    assert stack.chat("away").status_code == 200
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)

    def told() -> bool:
        return any(str(folder) in (e.error or "") for e in stack.engines() if e.base_id == base.id and e.state == "failed")

    until(told, what="the missing folder is told")
    assert stack.chat("steady").status_code == 200 and stack.chat("away").status_code == 503
    assert stack.role_pid("supervise") == supervisor
    shutil.move(stack.work / "away", folder)
    until(lambda: stack.chat("away").status_code == 200, what="back once the folder is back")


def test_adapter_with_a_canary_that_cannot_be_answered_is_refused_and_others_serve_on(shared: Stack) -> None:
    stack = shared
    base = stack.base()
    stack.deploy("talk", base)
    supervisor = stack.role_pid("supervise")
    version = stack.adapter("torn", base, proven=True)
    # As after a fault of the disk, or by somebody's hand: the files in the registry are no longer what was imported.
    path = stack.settings.layout.artifacts / version.folder / canary.REFERENCE
    for text, code in (
        ('{"prompts": [{"prompt_ids": [1], "answer_ids": [2], "adapter": null, "base": null}]}', "broken_artifact"),
        ("{", "broken_artifact"),
    ):
        path.write_text(text)
        move = stack.ended(stack.ask("torn", version))
        assert move.state == "refused" and move.error is not None and move.error["code"] == code
    assert stack.role_pid("supervise") == supervisor and stack.served("torn") is None
    assert stack.chat("talk").status_code == 200


def test_engine_that_answers_the_canary_with_nonsense_is_refused(shared: Stack) -> None:
    stack = shared
    base = stack.base()
    stack.deploy("talk", base)
    supervisor, version = stack.role_pid("supervise"), stack.adapter("odd", base, proven=True)
    stack.script(nonsense=True)
    move = stack.ended(stack.ask("odd", version))
    assert move.state == "refused" and move.error is not None and move.error["code"] == "canary_failed"
    assert stack.role_pid("supervise") == supervisor


def test_adapter_refused_after_a_restart_is_tried_again(shared: Stack) -> None:
    stack = shared
    base = stack.base("tired", seed=6)
    adapter = stack.adapter("again", base)
    stack.deploy("tired", base)
    stack.deploy("again", adapter)
    pid = stack.engine_of(base).pid
    assert pid is not None
    stack.script(load_error=str(adapter.ref))
    os.kill(pid, signal.SIGKILL)
    until(lambda: stack.engine_of(base).pid != pid, what="the engine is started again")
    until(lambda: stack.chat("tired").status_code == 200, what="the gateway has seen it, without the adapter")
    assert stack.chat("again").status_code == 503
    stack.script()
    until(lambda: stack.chat("again").status_code == 200, within=60, what="the adapter is loaded after all")


def test_crash_loop_keeps_its_distance_and_others_serve_on(shared: Stack) -> None:
    stack = shared
    good, bad = stack.base(), stack.base("bad", seed=2)
    stack.deploy("steady", good)
    stack.deploy("shaky", bad)
    pid = stack.engine_of(bad).pid
    assert pid is not None
    stack.script(refuse_start=str(bad.ref))
    os.kill(pid, signal.SIGKILL)
    until(lambda: any(e.base_id == bad.id and e.restarts >= 2 for e in stack.engines()), what="it tries again")
    until(lambda: stack.chat("shaky").status_code == 503)
    assert stack.chat("steady").status_code == 200 and stack.chat("shaky").headers["retry-after"]
    row = next(e for e in stack.engines() if e.base_id == bad.id)
    assert row.restarts <= 6 and (row.error is None or "out of memory" in row.error)


def test_engine_that_is_only_slow_for_a_while_is_not_killed(shared: Stack) -> None:
    base = shared.base("slow", seed=7)
    shared.deploy("slow", base)
    pid = shared.engine_of(base).pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    time.sleep(14)
    os.kill(pid, signal.SIGCONT)
    until(lambda: shared.chat("slow").status_code == 200, what="serving goes on")
    time.sleep(1)
    assert alive(pid) and shared.engine_of(base).pid == pid


def test_two_moves_asked_at_once_have_one_winner(shared: Stack) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from sumika.models.errors import SumikaError

    stack = shared
    base = stack.base()
    versions = [stack.adapter("race", base, seed=seed) for seed in (71, 72)]

    def ask(number: int) -> str:
        try:
            stack.ask("race", versions[number % 2])
        except SumikaError as error:
            return error.code
        return "asked"

    stack.script(load_delay_s=5)  # so that the first move is under way until all have asked
    try:
        with ThreadPoolExecutor(8) as pool:
            told = list(pool.map(ask, range(8)))
    finally:
        stack.script()
    assert told.count("asked") == 1 and set(told) == {"asked", "move_open"}
    until(lambda: stack.served("race") is not None)
    with stack.store.read() as connection:
        alias = aliases.find(connection, "race")
    assert alias is not None and alias.generation == 1


def test_store_that_holds_nonsense_for_a_while_is_read_again_afterwards(shared: Stack) -> None:
    """A gateway that gave up reading would honour a revoked key for ever."""
    from sqlalchemy import text

    stack = shared
    secret, key_id = stack.new_key()
    with stack.store.write() as connection:
        connection.execute(text("update keys set expires_at = 'never' where id = :id"), {"id": key_id})
    time.sleep(0.5)
    with stack.store.write() as connection:
        connection.execute(text("update keys set expires_at = null where id = :id"), {"id": key_id})
        keys.revoke(connection, key_id)
    with stack.client(secret) as client:
        until(lambda: client.get("/v1/models").status_code == 401, within=5, what="the revocation bites")


def test_same_version_deployed_again_goes_on_serving(shared: Stack) -> None:
    base = shared.base()
    adapter = shared.adapter("same", base, proven=True)
    shared.deploy("same", adapter)
    pid = shared.engine_of(base).pid
    shared.deploy("same", adapter)
    assert shared.served("same") == str(adapter.ref) and shared.engine_of(base).pid == pid


def test_broken_adapter_is_refused_before_any_engine_sees_it(shared: Stack) -> None:
    from sumika.models.errors import SumikaError

    base = shared.base()
    for wrong in ({"rename": ".x"}, {"fill": float("nan")}, {"rank": 32}, {"use_dora": True}, {"rank": 12, "r": 4}):
        with pytest.raises(SumikaError) as told:
            shared.adapter("broken", base, **wrong)
        assert told.value.code == "bad_adapter"


def test_two_adapters_of_one_base_answer_side_by_side(shared: Stack) -> None:
    base = shared.base()
    versions = {name: shared.adapter(name, base, seed=n, proven=True) for n, name in enumerate(("left", "right"), start=31)}
    for name, version in versions.items():
        shared.deploy(name, version)
    assert {name: shared.chat(name).json()["model"] for name in versions} == {n: str(v.ref) for n, v in versions.items()}
    assert len([e for e in shared.engines() if e.base_id == base.id]) == 1


def test_key_that_expires_stops_by_itself(shared: Stack) -> None:
    from datetime import UTC, datetime, timedelta

    secret, _ = shared.new_key(expires_at=datetime.now(UTC) + timedelta(seconds=4))
    with shared.client(secret) as client:
        until(lambda: client.get("/v1/models").status_code == 401, within=10, what="the expiry bites")


def test_engine_sees_nothing_of_our_environment(shared: Stack) -> None:
    base = shared.base()
    shared.deploy("seen", base)
    environ = psutil.Process(shared.engine_of(base).pid).environ()
    assert not [name for name in environ if name.startswith(("SUMIKA_", "AWS_", "PIP_"))]
    assert environ["HF_HUB_OFFLINE"] == environ["VLLM_NO_USAGE_STATS"] == "1"
    assert environ["HOME"].startswith(str(shared.settings.home))


def test_every_file_in_the_home_is_private(shared: Stack) -> None:
    shared.deploy("private", shared.base())
    write_adapter(shared.work / "x")
    open_to_others = [p for p in shared.settings.home.rglob("*") if not p.is_symlink() and p.stat().st_mode & 0o007]
    inside = [p for p in open_to_others if p.parent == shared.settings.home or p.suffix in (".db", ".log", ".key", ".sock")]
    assert inside == []
