"""Processes killed and engines gone wrong: what runs goes on, what died comes back, nobody waits for ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from sumika.models import engines, sandbox
from tests.conftest import ROOT
from tests.integration.conftest import Stack, finish, free_port, start, until

CHAT = {"messages": [{"role": "user", "content": "hello"}]}


def test_engine_killed_is_restarted_with_its_adapters_and_requests_get_503(own_stack: Stack) -> None:
    stack = own_stack
    base = stack.base()
    adapter = stack.adapter("faq", base, proven=True)
    stack.deploy("base", base)
    stack.deploy("faq", adapter)
    before = stack.engine_of(base)
    assert before.pid is not None
    stack.script(start_delay_s=2)
    os.kill(before.pid, signal.SIGKILL)
    until(lambda: stack.chat("faq").status_code == 503, within=3)
    response = stack.chat("faq")
    assert response.status_code == 503 and int(response.headers["retry-after"]) > 0
    until(lambda: stack.chat("faq").status_code == 200, what="serving again by itself")
    after = stack.engine_of(base)
    assert after.pid != before.pid and after.adapters == (str(adapter.ref),)
    assert stack.chat("faq").headers["x-sumika-version"] == str(adapter.ref)


def test_engine_killed_in_mid_stream_ends_it_with_one_error_event(own_stack: Stack) -> None:
    stack = own_stack
    stack.deploy("talk", stack.base())
    stack.script(chunks=9, die_after_chunks=3)
    with (
        stack.client() as client,
        client.stream("POST", "/v1/chat/completions", json=CHAT | {"model": "talk", "stream": True}) as response,
    ):
        lines = [line for line in response.iter_lines() if line]
    stack.script()
    assert len(lines) == 4 and '"code": "engine_unreachable"' in lines[-1]
    assert not any("[DONE]" in line for line in lines)
    until(lambda: stack.chat("talk").status_code == 200)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_core_that_dies_under_vllms_server_ends_a_stream_with_one_error_event(own_stack: Stack, path: str) -> None:
    """vLLM itself tells it in words of its own, and then ends the stream as a whole one."""
    stack = own_stack
    stack.deploy("talk", stack.base())
    stack.script(core_dies_of="hello")
    body = CHAT | {"model": "talk", "stream": True, "max_tokens": 9}
    with stack.client() as client, client.stream("POST", path, json=body) as response:
        text = "".join(response.iter_text())
    stack.script()
    assert text.count("error") > 0 and "EngineCore" not in text and "[DONE]" not in text and "message_stop" not in text
    assert text.rstrip().rpartition("data: ")[2].count("stopped") == 1
    until(lambda: stack.chat("talk").status_code == 200)


def test_request_that_ends_vllms_core_twice_is_tried_no_more(own_stack: Stack) -> None:
    stack = own_stack
    stack.deploy("talk", stack.base())
    stack.script(core_dies_of="poison")
    body = CHAT | {"model": "talk", "messages": [{"role": "user", "content": "poison"}]}

    def asked() -> httpx.Response:
        with stack.client() as client:
            return client.post("/v1/chat/completions", json=body)

    ended: set[int | None] = set()
    told: list[tuple[int, str]] = []
    for _ in range(2):
        # Another one: vLLM's server outlives its core for a moment, and answers nobody any more.
        until(lambda: stack.engines()[0].pid not in ended and stack.chat("talk").status_code == 200, what="an engine is back")
        ended.add(stack.engines()[0].pid)
        answer = asked()
        told.append((answer.status_code, answer.json()["error"]["code"]))
    assert told[0] == (503, "engine_unreachable")
    assert told[1] in (told[0], (400, "request_quarantined")), "the second time may be known before another engine is looked for"
    until(lambda: stack.engines()[0].pid not in ended and stack.chat("talk").status_code == 200, what="an engine is back again")
    with stack.store.read() as connection:
        [before] = engines.list_all(connection)
    answer = asked()
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "request_quarantined")
    assert stack.chat("talk").status_code == 200
    with stack.store.read() as connection:
        assert engines.list_all(connection)[0].pid == before.pid
    assert "poison" not in stack.logs()


def test_adapter_whose_files_are_gone_is_refused_alone_and_served_again_when_they_are_back(own_stack: Stack) -> None:
    stack = own_stack
    base = stack.base()
    adapter, other = stack.adapter("faq", base), stack.adapter("mail", base, seed=1)
    stack.deploy("faq", adapter)
    stack.deploy("mail", other)
    before, folder = stack.engine_of(base), stack.settings.layout.artifacts / adapter.folder
    folder.rename(stack.work / "kept")
    with stack.client() as client:
        until(lambda: client.get("/health/ready?model=faq").status_code == 503, what="the missing files are noticed")
    assert stack.chat("faq").status_code == 503
    assert stack.chat("mail").status_code == 200
    (stack.work / "kept").rename(folder)
    until(lambda: stack.chat("faq").status_code == 200, what="serving again by itself")
    assert stack.engine_of(base).pid == before.pid


def test_engine_that_hangs_is_replaced(own_stack: Stack) -> None:
    stack = own_stack
    base = stack.base()
    stack.deploy("talk", base)
    before = stack.engine_of(base)
    assert before.pid is not None
    os.kill(before.pid, signal.SIGSTOP)
    until(
        lambda: any(e.pid not in (None, before.pid) and e.state == "ready" for e in stack.engines()),
        within=60,
        what="a new engine",
    )
    until(lambda: stack.chat("talk").status_code == 200)


def test_engine_whose_server_lives_and_which_generates_nothing_is_replaced_in_seconds(own_stack: Stack) -> None:
    stack = own_stack
    base = stack.base()
    stack.deploy("talk", base)
    before = stack.engine_of(base)
    stack.script(hang_generation=True)
    until(lambda: stack.engines()[0].pid != before.pid, within=20, what="the one that hangs is ended")
    stack.script()
    until(lambda: stack.chat("talk").status_code == 200, within=40, what="another one")


def test_files_that_are_not_as_imported_are_not_served(own_stack: Stack) -> None:
    stack = own_stack
    base = stack.base()
    folder = stack.settings.layout.artifacts / base.folder
    (folder / "chat_template.jinja").write_text("{{ 'evil' }}")
    move = stack.ended(stack.ask("talk", base))
    assert move.state == "refused" and move.error is not None and "chat_template.jinja" in move.error["en"]
    (folder / "chat_template.jinja").unlink()
    until(lambda: not stack.engines(), what="the one that was not started is forgotten")
    stack.deploy("talk", base)
    adapter = stack.adapter("faq", base)
    weights = stack.settings.layout.artifacts / adapter.folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    move = stack.ended(stack.ask("faq", adapter))
    assert move.state == "refused" and move.error is not None and move.error["code"] == "broken_artifact"
    other = stack.base("other", seed=3)
    weights = stack.settings.layout.artifacts / other.folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    move = stack.ended(stack.ask("talk", other))
    assert move.state == "refused" and move.error is not None and move.error["code"] == "broken_artifact"
    assert stack.chat("talk").status_code == 200


def test_engine_sees_nothing_of_keys_and_database(own_stack: Stack) -> None:
    stack = own_stack
    base = stack.base()
    stack.deploy("talk", base)
    engine = stack.engine_of(base)
    assert sandbox.usable()[0] != "none", "the tests' machine has a sandbox"
    if sandbox.usable()[0] == "bubblewrap":
        root = Path(f"/proc/{engine.pid}/root")
        assert not (root / str(stack.settings.layout.admin_key).lstrip("/")).exists()
        assert not (root / str(stack.settings.layout.database).lstrip("/")).exists()
        assert (root / str(stack.settings.layout.artifacts / base.folder / "config.json").lstrip("/")).exists()


def test_engine_in_a_crash_loop_backs_off_and_shows_why(own_stack: Stack) -> None:
    stack = own_stack
    base = stack.base()
    stack.deploy("talk", base)
    pid = stack.engine_of(base).pid
    assert pid is not None
    stack.script(refuse_start=True)
    os.kill(pid, signal.SIGKILL)
    time.sleep(6)
    engine = stack.engines()[0]
    assert engine.state in ("failed", "starting") and 1 <= engine.restarts <= 5
    with stack.store.read():
        assert "out of memory while loading" in stack.logs()
    stack.script()
    until(lambda: stack.chat("talk").status_code == 200, within=40, what="back once it can start")


def test_supervisor_killed_leaves_the_engine_serving_and_adopts_it(own_stack: Stack) -> None:
    stack = own_stack
    base = stack.base()
    stack.deploy("talk", base)
    engine, supervisor = stack.engine_of(base), stack.role_pid("supervise")
    os.kill(supervisor, signal.SIGKILL)
    assert stack.chat("talk").status_code == 200
    until(lambda: stack.role_pid("supervise") != supervisor, what="a new supervisor")
    adapter = stack.adapter("faq", base)
    stack.deploy("faq", adapter)
    assert stack.engine_of(base).pid == engine.pid and len(stack.engines()) == 1
    assert stack.chat("talk").status_code == 200


def test_supervisor_killed_during_a_move_finishes_it_afterwards(own_stack: Stack) -> None:
    stack = own_stack
    base = stack.base()
    stack.deploy("talk", base)
    other = stack.base("other", seed=5)
    stack.script(start_delay_s=2)
    move = stack.ask("talk", other)
    until(lambda: any(e.base_id == other.id and e.pid for e in stack.engines()))
    os.kill(stack.role_pid("supervise"), signal.SIGKILL)
    assert stack.ended(move).state == "done"
    until(lambda: stack.served("talk") == str(other.ref))


def test_gateway_killed_comes_back(own_stack: Stack) -> None:
    stack = own_stack
    stack.deploy("talk", stack.base())
    os.kill(stack.role_pid("gateway"), signal.SIGKILL)

    def answers() -> bool:
        try:
            return stack.chat("talk").status_code == 200
        except httpx.TransportError:
            return False

    until(answers, what="the gateway is back")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stack_told_to_end_lets_a_stream_finish(own_stack: Stack, number: signal.Signals) -> None:
    stack = own_stack
    stack.deploy("talk", stack.base())
    stack.script(chunks=20, chunk_delay_s=0.1)
    with (
        stack.client() as client,
        client.stream("POST", "/v1/chat/completions", json=CHAT | {"model": "talk", "stream": True}) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        stack.process.send_signal(number)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]" and len(rest) == 20
    assert stack.process.wait(timeout=30) == 0


def test_engine_that_ignores_sigterm_is_killed_at_the_end(own_stack: Stack) -> None:
    stack = own_stack
    stack.script(ignore_sigterm=True)
    stack.deploy("talk", stack.base())
    pid = stack.engines()[0].pid
    assert stack.stop() == 0
    assert pid is not None and not os.path.exists(f"/proc/{pid}")


def test_stack_started_again_serves_what_it_served(tmp_path: os.PathLike[str]) -> None:
    from pathlib import Path

    first = start(Path(tmp_path))
    base = first.base()
    first.deploy("talk", base)
    first.deploy("faq", first.adapter("faq", base, proven=True))
    finish(first)
    second = start(Path(tmp_path))
    until(lambda: second.chat("faq").status_code == 200, what="serving again")
    assert second.served("talk") == "base@1" and second.served("faq") == "faq@1"
    finish(second)


@pytest.mark.parametrize("later", [0.0, 0.5, 1.5, 2.5])
def test_stack_told_to_stop_after_its_supervisor_was_killed_leaves_no_engine(own_stack: Stack, later: float) -> None:
    """Whether the next one is not started yet, is starting, or waits for the lease of the dead one."""
    own_stack.deploy("talk", own_stack.base())
    os.kill(own_stack.role_pid("supervise"), signal.SIGKILL)
    time.sleep(later)
    # `own_stack` ends it and looks.


def test_second_supervisor_stands_by_and_takes_over_within_five_seconds(own_stack: Stack) -> None:
    stack = own_stack
    base = stack.base()
    stack.deploy("talk", base)
    engine = stack.engine_of(base)
    with stack.log.open("ab") as file:
        other = subprocess.Popen(
            [sys.executable, "-m", "sumika.cli.main", "supervise"], env=stack.env, stdout=file, stderr=file, cwd=ROOT
        )
    try:
        until(lambda: "standing by" in stack.log.read_text(), what="the second one stands by")
        os.kill(stack.process.pid, signal.SIGSTOP)  # so that the first one is not started again
        os.kill(stack.role_pid("supervise"), signal.SIGKILL)
        move = stack.ask("faq", stack.adapter("faq", base))
        assert stack.ended(move, within=5).state == "done"
        assert stack.engine_of(base).pid == engine.pid
    finally:
        os.kill(stack.process.pid, signal.SIGCONT)
        other.terminate()
        assert other.wait(timeout=30) == 0


def test_supervisor_that_was_paused_and_wakes_can_write_nothing(own_stack: Stack) -> None:
    stack = own_stack
    base = stack.base()
    stack.deploy("talk", base)
    paused = stack.role_pid("supervise")
    os.kill(paused, signal.SIGSTOP)
    with stack.log.open("ab") as file:
        other = subprocess.Popen(
            [sys.executable, "-m", "sumika.cli.main", "supervise"], env=stack.env, stdout=file, stderr=file, cwd=ROOT
        )
    try:
        stack.deploy("faq", stack.adapter("faq", base))
        os.kill(paused, signal.SIGCONT)
        until(lambda: not psutil.pid_exists(paused) or psutil.Process(paused).status() == "zombie", what="the paused one ends")
        assert "[fenced]" in stack.log.read_text() or "took over" in stack.log.read_text()
        assert stack.chat("faq").status_code == 200
    finally:
        other.terminate()
        assert other.wait(timeout=30) == 0
        until(lambda: stack.engines() and stack.chat("faq").status_code == 200, what="the first stack's supervisor is back")


def test_stack_whose_starter_is_killed_ends_and_frees_the_port(own_stack: Stack) -> None:
    """As when a terminal is closed over `make demo`: nobody is left to press Ctrl-C."""
    port = free_port()
    env = os.environ | {"SUMIKA_HOME": str(own_stack.work / "second"), "SUMIKA_PORT": str(port)}
    code = "import subprocess, sys, os, time; subprocess.Popen([sys.executable, '-m', 'sumika.cli.main', 'up', '--parent', str(os.getpid())]); time.sleep(300)"
    starter = subprocess.Popen(
        [sys.executable, "-c", code], env=env, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def alive() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/health/live").status_code == 200
        except httpx.TransportError:
            return False

    until(alive, within=120, what="the second stack")
    starter.kill()
    starter.wait()
    until(lambda: not alive(), within=120, what="the second stack ends")


def test_engine_whose_server_answers_but_that_generates_nothing_is_replaced(tmp_path: Path) -> None:
    stack = start(tmp_path, SUMIKA_ENGINE__LIVENESS_EVERY_S="0.5", SUMIKA_ENGINE__LIVENESS_TIMEOUT_S="1")
    base = stack.base()
    adapter = stack.adapter("faq", base, proven=True)
    stack.deploy("faq", adapter)
    pid = stack.engine_of(base).pid
    stack.script(hang_generation=True)
    until(
        lambda: any(e.state == "failed" and "stopped generating" in (e.error or "") for e in stack.engines()), what="it is told"
    )
    stack.script()
    until(lambda: stack.chat("faq").status_code == 200, what="serving again")
    engine = stack.engine_of(base)
    assert engine.pid != pid and engine.adapters == (str(adapter.ref),)
    finish(stack)


def test_adapter_that_does_nothing_after_a_restart_is_not_served(tmp_path: Path) -> None:
    """The proof follows every load, not only a move."""
    stack = start(tmp_path)
    base = stack.base()
    adapter = stack.adapter("faq", base, proven=True)
    stack.deploy("faq", adapter)
    stack.deploy("plain", base)
    pid = stack.engine_of(base).pid
    assert pid is not None
    stack.script(as_base=True)
    os.kill(pid, signal.SIGKILL)
    until(
        lambda: stack.engine_of(base).pid not in (None, pid) and stack.chat("plain").status_code == 200, what="the engine is back"
    )
    assert stack.chat("faq").status_code == 503, "better no answer than the base's in the adapter's name"
    stack.script()
    until(lambda: stack.chat("faq").status_code == 200, what="tried again, and proven")
    finish(stack)
