"""One request that ends its engine: it does so twice, and then nobody else pays for it again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sumika.models import scales
from tests.integration.conftest import Stack, finish, start, until

POISON = "zq7poison"


def told(stack: Stack, text: str, **more: object) -> tuple[int, str]:
    """Status and code; of a stream that broke the code of its last event."""
    answer = stack.chat("talk", messages=[{"role": "user", "content": text}], **more)
    if "text/event-stream" in answer.headers["content-type"]:
        return answer.status_code, next((code for code in ("engine_unreachable", "engine_timeout") if code in answer.text), "")
    return answer.status_code, "" if answer.status_code == 200 else answer.json()["error"]["code"]


@pytest.fixture
def with_workers(tmp_path: Path, valkey: str, request: pytest.FixtureRequest) -> Iterator[Stack]:
    started = start(tmp_path, SUMIKA_GATEWAY__WORKERS=str(request.param), SUMIKA_GATEWAY__LIMITS_URL=valkey)
    yield started
    finish(started)


@pytest.mark.parametrize(("with_workers", "stream"), [(1, False), (3, True)], indirect=["with_workers"])
def test_request_that_kills_an_engine_twice_is_quarantined_and_others_are_served(with_workers: Stack, stream: bool) -> None:
    """Whichever gateway worker it comes to: each of these requests is a connection of its own."""
    stack = with_workers
    base = stack.base()
    stack.deploy("talk", base)
    stack.script(poison=POISON)
    for answer in ((503, "engine_unreachable"), (400, "request_quarantined")):
        pid = stack.engine_of(base).pid
        assert told(stack, f"say {POISON}", stream=stream) == answer
        until(
            lambda pid=pid: stack.engine_of(base).pid not in (None, pid) and told(stack, "hello") == (200, ""),
            what="a new engine",
        )
    pid = stack.engine_of(base).pid
    for _ in range(3):
        assert told(stack, f"say {POISON}", stream=stream) == (400, "request_quarantined")
    assert told(stack, "hello") == (200, "") and stack.engine_of(base).pid == pid
    assert POISON not in stack.logs()


def test_two_engines_are_lost_to_a_request_at_most(own_stack: Stack) -> None:
    """It is sent to another engine when it has lost its first; and to no third one."""
    stack = own_stack
    base = stack.base()
    with stack.store.write() as connection:
        scales.put(connection, base.ref.name, 3, actor="test")
    stack.deploy("talk", base)
    until(lambda: len([e for e in stack.engines() if e.state == "ready"]) == 3, what="three engines")
    before = {e.pid for e in stack.engines()}
    stack.script(poison=POISON)
    assert told(stack, POISON) == (400, "request_quarantined")
    stack.script()
    assert told(stack, "hello") == (200, "")
    until(lambda: len(before - {e.pid for e in stack.engines()}) == 2, what="two are new")
    until(lambda: len([e for e in stack.engines() if e.state == "ready"]) == 3, what="three engines again")
    assert len(before & {e.pid for e in stack.engines()}) == 1
