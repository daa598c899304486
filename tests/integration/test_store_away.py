"""A PostgreSQL that is silent, or takes no writes: answers go on, acts are refused clearly and soon, and the log stays readable."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import create_engine, make_url, text

from tests.conftest import ROOT
from tests.integration.conftest import Stack, finish, start, until
from tests.postgres import postgres_server, postgres_url
from tests.silent_proxy import SilentProxy, silent_proxy

__all__ = ["postgres_server", "postgres_url"]

# Far more than any bound, for machines that are busy.
_HANGS_S = 45


@pytest.fixture
def proxy(postgres_url: str) -> Iterator[SilentProxy]:
    with silent_proxy(postgres_url) as made:
        yield made


def add_team(stack: Stack, name: str) -> httpx.Response:
    with httpx.Client(base_url=stack.url, headers={"authorization": f"Bearer {stack.admin_key}"}, timeout=_HANGS_S) as client:
        return client.post("/admin/v1/teams", json={"name": name, "title": "x"})


def store_of(stack: Stack) -> str:
    answer = httpx.get(f"{stack.url}/health/ready")
    assert answer.status_code == 200 and answer.json()["status"] == "ready"
    return str(answer.json()["store"])


def answers_soon(stack: Stack, times: int) -> None:
    for _ in range(times):
        began = time.monotonic()
        assert stack.chat("talk").status_code == 200 and time.monotonic() - began < 5
        time.sleep(0.1)


def test_silent_database(tmp_path: Path, proxy: SilentProxy) -> None:
    stack = start(tmp_path, SUMIKA_DATABASE_URL=proxy.url)
    stack.deploy("talk", stack.base())
    assert store_of(stack) == "available"
    logged, supervisor, (engine,) = len(stack.logs()), stack.role_pid("supervise"), stack.engines()
    assert engine.pid is not None
    proxy.silent.set()
    with ThreadPoolExecutor(60) as pool:
        acts = [pool.submit(add_team, stack, f"team-{n}") for n in range(60)]
        answers_soon(stack, 20)
        refused = [act.result() for act in acts]
    for answer in refused:
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "store_unavailable", answer.text
        assert int(answer.headers["retry-after"]) > 0
    assert store_of(stack) == "unavailable"
    answers_soon(stack, 5)
    os.kill(engine.pid, signal.SIGKILL)
    until(lambda: stack.chat("talk").status_code == 503, what="its engine is gone")
    proxy.silent.clear()
    until(lambda: stack.chat("talk").status_code == 200, within=60, what="it is started again")
    assert stack.role_pid("supervise") == supervisor, "the supervisor went on"
    until(lambda: store_of(stack) == "available", within=60, what="the store is used again")
    until(lambda: add_team(stack, "after").status_code in (200, 201), within=60, what="acts are done again")
    stack.deploy("other", stack.base("other", seed=3))
    said = stack.logs()[logged:]
    assert "Traceback" not in said and said.count("did not answer") < 30, said
    finish(stack)


@contextmanager
def read_only(url: str) -> Iterator[None]:
    """As a primary that an operator has set to refuse writes, or a standby: for those who connect from now on."""
    named = make_url(url)
    admin = create_engine(named.set(database="postgres"), isolation_level="AUTOCOMMIT")

    def ended(value: str) -> None:
        with admin.connect() as connection:
            connection.execute(text(f"alter database {named.database} set default_transaction_read_only = {value}"))
            connection.execute(
                text("select pg_terminate_backend(pid) from pg_stat_activity where datname = :name"), {"name": named.database}
            )

    ended("on")
    try:
        yield
    finally:
        ended("off")
        admin.dispose()


def test_database_that_takes_no_writes(tmp_path: Path, postgres_url: str) -> None:
    stack = start(tmp_path, SUMIKA_DATABASE_URL=postgres_url)
    stack.deploy("talk", stack.base())
    logged = len(stack.logs())
    with read_only(postgres_url):
        answer = until(lambda: a if (a := add_team(stack, "x")).status_code == 503 else None, what="acts are refused")
        assert answer.json()["error"]["code"] == "store_unavailable" and "takes no writes" in answer.json()["error"]["message"]
        command = [sys.executable, "-m", "sumika.cli.main", "keys", "create", "bot"]
        told = subprocess.run(command, env=stack.env, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert told.returncode == 69 and "takes no writes" in told.stderr, told.stderr
        assert "Traceback" not in told.stderr and "INSERT" not in told.stderr
        answers_soon(stack, 30)
        until(lambda: store_of(stack) == "unavailable", what="readiness says that writes fail")
    until(lambda: add_team(stack, "after").status_code in (200, 201), within=60, what="acts are done again")
    stack.deploy("other", stack.base("other", seed=3))
    said = stack.logs()[logged:]
    assert "Traceback" not in said and said.count("takes no writes") < 30, said
    finish(stack)
