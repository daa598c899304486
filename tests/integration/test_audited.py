"""A running Sumika tells its audit log of requests, refusals and moves; with contents, answers nothing that it can't record."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import httpx
import pysqlite3.dbapi2 as sqlite
import pytest

from sumika.models.audit import listing, sealing
from sumika.models.audit.chain import AuditRow
from sumika.models.audit.listing import Filter
from sumika.models.audit.verify import verify
from tests.integration.conftest import Stack, finish, start, until

SECRET = "給与は毎月何日に支払われますか"


def rows(stack: Stack, **wanted: Any) -> list[AuditRow]:
    """Oldest first."""
    with stack.store.read() as connection:
        return listing.find(connection, Filter(**wanted), 10_000)[::-1]


def test_requests_moves_and_refusals_are_told_and_the_log_verifies(tmp_path: Path) -> None:
    stack = start(tmp_path)
    stack.deploy("talk", stack.base())
    secret, key = stack.new_key()
    with stack.client(secret) as client:
        body = {"model": "talk", "messages": [{"role": "user", "content": SECRET}]}
        for more in ({}, {"stream": True}, {"model": "nope"}, {"strange": 1}):
            client.post("/v1/chat/completions", json=body | more)
        client.post("/v1/completions", json={"model": "talk", "prompt": SECRET})
        assert client.get("/metrics").status_code == 403
    for _ in range(20):
        assert httpx.get(f"{stack.url}/v1/models", headers={"authorization": "Bearer x"}).status_code == 401
    told = until(lambda: (found := rows(stack, actor=key)) and len(found) >= 5 and found, within=5, what="five requests are told")
    assert [(row.action, row.object, row.outcome, row.reason) for row in told] == [
        ("inference.chat", "talk", "done", ""), ("inference.chat", "talk", "done", ""),
        ("inference.chat", "-", "refused", "model_not_found"), ("inference.chat", "-", "refused", told[3].reason),
        ("inference.completion", "talk", "done", ""),
    ]  # fmt: skip
    assert told[0].role == "app" and told[0].details["version"] == "base@1" and "sealed" not in told[0].details
    moved = [(row.actor, row.outcome, row.details["to"]) for row in rows(stack, action="alias.deploy")]
    assert moved == [("test", "asked", "base@1"), ("system", "done", "base@1")]
    finish(stack)
    refused = {row.details["status"]: row for row in rows(stack, action="auth.refused")}
    assert sum(row.details["count"] for row in rows(stack, action="auth.refused", actor="peer:127.0.0.1")) >= 20 and (
        refused[403].actor,
        refused[403].reason,
    ) == (key, "forbidden")
    found = verify(stack.store, stack.settings.layout)
    assert found.ok and found.unsigned == 0
    for file in stack.settings.layout.root.rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file


@pytest.mark.parametrize("victim", ["gateway", "supervise"])
def test_log_verifies_after_kill(tmp_path: Path, victim: str) -> None:
    stack = start(tmp_path)
    stack.deploy("talk", stack.base())
    for _ in range(3):
        stack.chat("talk")
    os.kill(stack.role_pid(victim), signal.SIGKILL)
    until(lambda: _answers(stack), what="it answers again")
    until(lambda: len(rows(stack, action="inference")) >= 1, what="requests are told")
    finish(stack)
    assert verify(stack.store, stack.settings.layout).ok


def test_contents_are_sealed_and_without_the_store_nothing_is_answered(tmp_path: Path) -> None:
    sealing.keygen(tmp_path / "k")
    stack = start(tmp_path, SUMIKA_AUDIT__INFERENCE="content", SUMIKA_AUDIT__CONTENT_KEY=str(tmp_path / "k.pub"))
    stack.deploy("talk", stack.base())
    with stack.client() as client:
        body = {"model": "talk", "messages": [{"role": "user", "content": SECRET}]}
        answers = [client.post("/v1/chat/completions", json=body | more) for more in ({}, {"stream": True})]
    told = until(lambda: (found := rows(stack, action="inference.chat")) and len(found) >= 2 and found, what="both are told")
    for row, answer in zip(told, answers, strict=True):
        with stack.store.read() as connection:
            found, blob = listing.sealed(connection, row.seq)
        content = sealing.unseal(sealing.private_key(tmp_path / "k"), found.details["request"], blob)
        assert SECRET in content.request and content.answer == answer.text and answer.status_code == 200
    holder = sqlite.connect(str(stack.settings.layout.database), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")  # nobody else can write
    stack.chat("talk")  # its content waits in memory
    refused = until(lambda: (answer := stack.chat("talk")).status_code == 503 and answer, within=20, what="a refusal")
    assert refused.json()["error"]["code"] == "audit_unavailable" and refused.headers["retry-after"] == "5"
    holder.execute("ROLLBACK")
    holder.close()
    until(lambda: stack.chat("talk").status_code == 200, what="it answers again")
    finish(stack)
    found = verify(stack.store, stack.settings.layout)
    assert found.ok and found.contents >= 4
    for file in stack.settings.layout.root.rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file


def _answers(stack: Stack) -> bool:
    try:
        return stack.chat("talk").status_code == 200
    except httpx.TransportError:
        return False
