"""Several gateway workers on one port: one limit, one set of figures, one answer to which version is served."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from sumika.models import engines
from sumika.models.store import revision
from tests.integration.conftest import Stack, finish, start, until
from tests.integration.test_limits import CHAT, limit

WORKERS = 3


@pytest.fixture
def several(tmp_path: Path, valkey: str) -> Iterator[Stack]:
    started = start(tmp_path, SUMIKA_GATEWAY__WORKERS=str(WORKERS), SUMIKA_GATEWAY__LIMITS_URL=valkey)
    until(lambda: len(workers(started)) == WORKERS and all_know(started), what="all workers")
    yield started
    finish(started)


def workers(stack: Stack) -> list[int]:
    gateway = psutil.Process(stack.role_pid("gateway"))
    return [child.pid for child in gateway.children() if "--one" in child.cmdline()]


def all_know(stack: Stack) -> bool:
    """What has been written by now."""
    with stack.store.read() as connection:
        rows, now = engines.list_gateways(connection), revision(connection)
    return len(rows) >= WORKERS and all(row.seen_revision >= now for row in rows)


def asked_afresh(stack: Stack, times: int, key: str | None = None) -> list[httpx.Response]:
    """Each over a connection of its own, which the kernel gives to some worker."""
    answers = []
    for _ in range(times):
        with stack.client(key) as client:
            answers.append(client.post("/v1/chat/completions", json=CHAT))
    return answers


def figure(stack: Stack, line: str) -> float:
    with stack.client() as client:
        text = client.get("/metrics").text
    return sum(float(told.rsplit(" ", 1)[1]) for told in text.splitlines() if told.startswith(line))


def test_workers_share_limits_figures_and_versions(several: Stack) -> None:
    base = several.base()
    several.deploy("talk", base)
    until(lambda: all_know(several), what="all know the alias")
    secret, key = several.new_key()
    limit(several, "key", key, requests_per_minute=20)
    statuses = [answer.status_code for answer in asked_afresh(several, 60, secret)]
    # Twice the limit where a minute began meanwhile.
    assert 20 <= statuses.count(200) <= 40 and statuses.count(429) == 60 - statuses.count(200)
    until(lambda: figure(several, 'sumika_requests_total{alias="talk",status="200"}') == statuses.count(200), what="the sum")
    assert len(list((several.settings.layout.sockets / "metrics").glob("counter_*.db"))) > 1, "one worker answered all"
    assert figure(several, 'sumika_engines{state="ready"}') == 1

    adapter = several.adapter("faq", base)
    several.deploy("talk", adapter)
    until(lambda: all_know(several), within=1, what="all know the swap")
    assert {answer.headers["x-sumika-version"] for answer in asked_afresh(several, 30)} == {"faq@1"}


def test_worker_that_is_killed_comes_back_and_others_answer_meanwhile(several: Stack) -> None:
    several.deploy("talk", several.base())
    until(lambda: all_know(several), what="all know the alias")
    before = workers(several)
    os.kill(before[0], signal.SIGKILL)
    until(lambda: not psutil.pid_exists(before[0]) or psutil.Process(before[0]).status() == psutil.STATUS_ZOMBIE)
    assert {answer.status_code for answer in asked_afresh(several, 30)} == {200}
    until(lambda: len(workers(several)) == WORKERS and before[0] not in workers(several), what="the worker is started again")
    assert {answer.status_code for answer in asked_afresh(several, 30)} == {200}


def test_several_workers_need_somewhere_to_count_limits_together(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="limits_url"):
        start(tmp_path, SUMIKA_GATEWAY__WORKERS="2")
