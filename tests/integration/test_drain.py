"""How a gateway goes: no longer ready, then closed to what is new; at the deadline each client is told; a second signal ends all."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.conftest import Stack, _runs, start, until

CHAT = {"model": "talk", "messages": [{"role": "user", "content": "hello"}]}
MESSAGES = {"model": "talk", "max_tokens": 50, "messages": [{"role": "user", "content": "hello"}]}


class Asked(threading.Thread):
    """A request that runs beside the test; `answer` once it has ended, `text` as it comes."""

    def __init__(self, stack: Stack, path: str, body: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self._stack, self._path, self._body = stack, path, body
        self.answer: httpx.Response | None = None
        self.text = ""
        self.fault: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            with self._stack.client() as client, client.stream("POST", self._path, json=self._body) as answer:
                for piece in answer.iter_text():
                    self.text += piece
                self.answer = answer
        except httpx.HTTPError as error:
            self.fault = error

    def ended(self) -> httpx.Response:
        self.join(30)
        assert self.fault is None and self.answer is not None, f"cut without a word: {self.fault!r} after {self.text!r}"
        return self.answer


def serving(tmp_path: Path, **env: str) -> Stack:
    stack = start(tmp_path, **env)
    stack.deploy("talk", stack.base())
    stack.script(chunks=2_000, chunk_delay_s=0.2)
    return stack


def ready(stack: Stack) -> httpx.Response | None:
    try:
        return httpx.get(f"{stack.url}/health/ready")
    except httpx.TransportError:
        return None


def engines(stack: Stack) -> list[int]:
    return [engine.pid for engine in stack.engines() if engine.pid]


def running(stack: Stack, number: int) -> Callable[[], bool]:
    engine = stack.engine_of(stack.version("base@1"))
    return lambda: stack.running(engine) >= number


def test_gateway_that_is_told_to_end_says_so_and_ends_each_answer_in_its_form(tmp_path: Path) -> None:
    stack = serving(tmp_path, SUMIKA_GATEWAY__SHUTDOWN_DELAY_S="3", SUMIKA_GATEWAY__DRAIN_TIMEOUT_S="1")
    stream, whole = Asked(stack, "/v1/chat/completions", CHAT | {"stream": True}), Asked(stack, "/v1/chat/completions", CHAT)
    claude = Asked(stack, "/v1/messages", MESSAGES | {"stream": True})
    until(running(stack, 3), what="all run")
    until(lambda: stream.text and claude.text, what="the streams have begun")
    pids = engines(stack)
    stack.process.send_signal(signal.SIGTERM)
    told = until(lambda: (answer := ready(stack)) is not None and answer.status_code == 503 and answer, what="it says so")
    assert told.json()["error"]["code"] == "draining" and told.headers["retry-after"]
    assert httpx.get(f"{stack.url}/health/live").status_code == 200
    with stack.client() as client:
        assert client.get("/v1/models").status_code == 200, "what balancers still send is answered"
    until(lambda: ready(stack) is None, what="it is closed to what is new")
    last = stream.ended() and stream.text.strip().rsplit("\n\n", 1)[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "shutting_down" and "[DONE]" not in stream.text
    assert claude.ended() and "event: error" in claude.text and "message_stop" not in claude.text
    answer = whole.ended()
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/json")
    error = json.loads(whole.text)["error"]
    assert error["code"] == "shutting_down" and error["type"] == "server_error" and answer.headers["retry-after"]
    assert stack.process.wait(60) == 0 and not any(_runs(pid) for pid in pids)
    log = stack.log.read_text()
    assert "Traceback" not in log and "3 requests still ran" in log
    stack.store.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_all_of_it_at_once(tmp_path: Path, number: signal.Signals) -> None:
    """By itself it would wait for a minute and more: delay, drain, engines."""
    waits = {
        "SUMIKA_GATEWAY__SHUTDOWN_DELAY_S": "60",
        "SUMIKA_GATEWAY__DRAIN_TIMEOUT_S": "60",
        "SUMIKA_ENGINE__STOP_TIMEOUT_S": "60",
    }
    stack = serving(tmp_path, **waits)
    stream = Asked(stack, "/v1/chat/completions", CHAT | {"stream": True})
    until(lambda: stream.text, what="the stream has begun")
    pids = engines(stack)
    stack.process.send_signal(signal.SIGTERM)
    until(lambda: (answer := ready(stack)) is not None and answer.status_code == 503, what="it drains")
    assert stream.is_alive()
    began = time.monotonic()
    stack.process.send_signal(number)
    stack.process.wait(60)
    assert time.monotonic() - began < 30, "it waited for what ran"
    assert stream.ended() and "shutting_down" in stream.text
    assert pids and not any(_runs(pid) for pid in pids), "an engine outlived the stack"
    stack.store.close()


def test_gateway_where_nothing_runs_ends_without_waiting_for_the_deadline(tmp_path: Path) -> None:
    stack = start(tmp_path, SUMIKA_GATEWAY__DRAIN_TIMEOUT_S="120")
    assert stack.stop() == 0
    stack.store.close()
