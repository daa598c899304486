"""A database that is locked, a disk that takes nothing: answers go on, acts are refused clearly, and what was counted is not lost."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import psutil
import pysqlite3.dbapi2 as sqlite
import pytest
from sqlalchemy import select

from sumika.models import schema
from sumika.models.audit.verify import verify
from tests.integration.conftest import Stack, until


@contextmanager
def locked(stack: Stack) -> Iterator[None]:
    """Another program holds the database for itself."""
    other = sqlite.connect(str(stack.settings.layout.database), isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@contextmanager
def full(stack: Stack) -> Iterator[None]:
    """No file of any process of Sumika's takes a byte more, as on a full disk: writes fail with EFBIG in place of ENOSPC."""
    engines = {engine.pid for engine in stack.engines()}
    pids = {stack.process.pid, *(child.pid for child in psutil.Process(stack.process.pid).children(recursive=True))} - engines
    before = {pid: resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in pids}
    for pid, (_, hard) in before.items():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, hard))
    try:
        yield
    finally:
        for pid, limits in before.items():
            if psutil.pid_exists(pid):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


def served(stack: Stack, seconds: float) -> list[str]:
    """Ids of requests asked one after another for a while, each answered, and soon."""
    ids, ends = [], time.monotonic() + seconds
    while time.monotonic() < ends:
        began = time.monotonic()
        answer = stack.chat("talk")
        assert answer.status_code == 200 and time.monotonic() - began < 2, answer.text
        ids.append(answer.headers["x-request-id"])
        time.sleep(0.1)
    return ids


def kept(stack: Stack) -> set[str]:
    with stack.store.read() as connection:
        return set(connection.scalars(select(schema.usage.c.request)))


def add_team(stack: Stack, name: str) -> httpx.Response:
    with stack.client() as client:
        return client.post("/admin/v1/teams", json={"name": name, "title": "x"})


def refused(answer: httpx.Response) -> bool:
    error = answer.json()["error"]
    return (
        answer.status_code == 503
        and error["code"] == "store_unavailable"
        and int(answer.headers["retry-after"]) > 0
        and "\n" not in error["message"]
    )


def test_store_that_is_locked_refuses_acts_and_serves_requests(own_stack: Stack) -> None:
    stack = own_stack
    stack.deploy("talk", stack.base())
    gateway = stack.role_pid("gateway")
    with locked(stack), ThreadPoolExecutor(24) as pool:
        acts = [pool.submit(add_team, stack, f"team-{n}") for n in range(24)]
        ids = served(stack, 8)
        assert all(refused(act.result()) for act in acts)
        with stack.client() as client:
            assert client.get("/admin/v1/teams").status_code == 200, "reading waits for nobody"
    until(lambda: add_team(stack, "later").status_code in (200, 201), within=15, what="acts are taken again")
    until(lambda: set(ids) <= kept(stack), within=15, what="every request is counted")
    assert stack.role_pid("gateway") == gateway and verify(stack.store, stack.settings.layout).ok


def test_disk_that_takes_nothing_refuses_acts_and_serves_requests(own_stack: Stack) -> None:
    stack = own_stack
    stack.deploy("talk", stack.base())
    gateway, engine = stack.role_pid("gateway"), stack.engines()[0].pid
    with full(stack):
        ids = served(stack, 3)
        assert refused(add_team(stack, "never"))
        with stack.client() as client:
            told = client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", b"{}\n")})
            assert told.status_code in (503, 507) and told.json()["error"]["code"] in ("store_unavailable", "disk_full"), (
                told.text
            )
        assert served(stack, 1)
    until(lambda: add_team(stack, "later").status_code in (200, 201), within=15, what="acts are taken again")
    until(lambda: set(ids) <= kept(stack), within=15, what="every request is counted")
    assert (stack.role_pid("gateway"), stack.engines()[0].pid) == (gateway, engine), "nobody was started again"
    assert verify(stack.store, stack.settings.layout).ok
    assert stack.deploy("faq", stack.adapter("faq", stack.version("base@1"))).state == "done"


def test_engine_that_dies_while_the_disk_is_full_is_started_again(own_stack: Stack) -> None:
    stack = own_stack
    stack.deploy("talk", stack.base())
    supervisor, (engine,) = stack.role_pid("supervise"), stack.engines()
    assert engine.pid is not None

    def serves_again() -> bool:
        for one in psutil.Process(supervisor).children(recursive=True):  # the fake engine notes what it was asked in a file
            if one.pid != engine.pid:
                _, hard = one.rlimit(psutil.RLIMIT_FSIZE)
                one.rlimit(psutil.RLIMIT_FSIZE, (hard, hard))
        return stack.chat("talk").status_code == 200

    with full(stack):
        assert refused(add_team(stack, "never"))
        os.kill(engine.pid, signal.SIGKILL)
        until(lambda: not psutil.pid_exists(engine.pid or 0), what="it is gone")
        until(serves_again, within=60, what="another serves in its place")
    assert stack.role_pid("supervise") == supervisor, "the supervisor went on"

    def written() -> bool:
        (now,) = stack.engines()
        return now.state == "ready" and now.pid != engine.pid and now.id == engine.id

    until(written, within=15, what="the store knows it")
    assert stack.deploy("faq", stack.adapter("faq", stack.version("base@1"))).state == "done"


def test_gateway_that_has_no_memory_left_comes_back_and_the_engine_stays(own_stack: Stack) -> None:
    """What the kernel's OOM killer does to it, and what Python does when memory is refused."""
    stack = own_stack
    stack.deploy("talk", stack.base())
    pid, engine = stack.role_pid("gateway"), stack.engines()[0].pid
    _, hard = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (psutil.Process(pid).memory_info().vms, hard))
    big = "x" * (1024 * 1024)
    for _ in range(20):
        try:
            answer = stack.chat("talk", messages=[{"role": "user", "content": big}])
        except httpx.TransportError:
            continue  # it died of it
        assert answer.status_code in (200, 400, 500, 503) and answer.json()
    if psutil.pid_exists(pid):
        os.kill(pid, signal.SIGKILL)

    def answers() -> bool:
        try:
            return stack.chat("talk").status_code == 200
        except httpx.TransportError:
            return False

    until(answers, within=20, what="the gateway is back")
    assert stack.engines()[0].pid == engine


@pytest.mark.parametrize("limit", [64])
def test_gateway_without_descriptors_serves_again_when_there_are_some(own_stack: Stack, limit: int) -> None:
    import socket

    stack = own_stack
    stack.deploy("talk", stack.base())
    pid = stack.role_pid("gateway")
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, hard))
    links = [socket.create_connection((stack.settings.host, stack.settings.port)) for _ in range(100)]
    busy = psutil.Process(pid).cpu_times()
    time.sleep(3)
    now = psutil.Process(pid).cpu_times()
    assert now.user + now.system - busy.user - busy.system < 2, "it spins"
    for link in links:
        link.close()
    until(lambda: stack.chat("talk").status_code == 200, within=20, what="it serves again")
    assert stack.role_pid("gateway") == pid
    assert len(stack.logs()) < 200_000
