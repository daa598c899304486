"""Secrets are planted wherever one can come in, and then looked for wherever one could get out."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import psutil

from tests.integration.conftest import Stack, finish, start, until
from tests.integration.test_audited import rows

CHAT = {"model": "talk", "messages": [{"role": "user", "content": "hello"}]}


def everywhere(stack: Stack) -> dict[str, str]:
    """What somebody may read without being allowed to: by place."""
    found = {"store": stack.settings.layout.database.read_bytes().decode("latin-1")}
    for wal in stack.settings.layout.database.parent.glob(f"{stack.settings.layout.database.name}-*"):
        found[wal.name] = wal.read_bytes().decode("latin-1")
    for file in (stack.log, *(path for path in stack.settings.layout.logs.rglob("*") if path.is_file())):
        found[str(file)] = file.read_text(errors="replace")
    for process in psutil.Process(stack.process.pid).children(recursive=True):
        found[f"arguments of {process.pid}"] = "\0".join(process.cmdline())
    for engine in stack.engines():
        found[f"environment of engine {engine.id}"] = json.dumps(psutil.Process(engine.pid).environ())
    with stack.client() as client:
        found["metrics"] = client.get("/metrics").text
        for path in ("status", "keys", "teams", "aliases", "moves", "versions", "me"):
            found[path] = client.get(f"/admin/v1/{path}").text
    found["audit log"] = json.dumps([str(row) for row in rows(stack)])
    return found


def test_planted_secrets_are_found_nowhere(tmp_path: Path) -> None:
    outside = {
        name: f"planted-{secrets.token_hex(12)}" for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "PGPASSWORD")
    }
    stack = start(tmp_path, **outside)
    stack.deploy("talk", stack.base())
    secret, key_id = stack.new_key()
    planted = {**outside, "the administrator's key": stack.admin_key, "a key": secret}
    with stack.client() as admin:
        planted["a key made over HTTP"] = admin.post("/admin/v1/keys", json={"name": "bot"}).json()["key"]
        planted["a rotated key"] = admin.post(f"/admin/v1/keys/{key_id}/rotate", json={}).json()["key"]
    for name, wrong in {"a misspelt key": secret[:-1] + "_", "a stranger's token": f"ey{secrets.token_hex(20)}.x.y"}.items():
        planted[name] = wrong
        assert stack.client(wrong).post("/v1/chat/completions", json=CHAT).status_code == 401
    for name, asked in (("in a query", "/v1/models?key="), ("in a path", "/v1/models/"), ("in a path that is none", "/")):
        planted[name] = secrets.token_hex(16)
        stack.client().get(asked + planted[name])
    planted["in a body"] = secrets.token_hex(16)
    for body in (
        CHAT | {"user": planted["in a body"]},
        CHAT | {planted["in a body"]: 1},
        CHAT | {"temperature": planted["in a body"]},
    ):
        stack.client().post("/v1/chat/completions", json=body)
    stack.client(secret).post("/v1/chat/completions", json=CHAT | {"stream": True})
    stack.script(nonsense=True)  # an engine that answers rubbish: what is told of that holds nothing of the request
    stack.client(secret).post("/v1/chat/completions", json=CHAT)
    stack.script()
    until(lambda: len(rows(stack, action="inference")) >= 1, what="requests are told")
    try:
        leaks = [
            f"{name} in {place}" for place, text in everywhere(stack).items() for name, value in planted.items() if value in text
        ]
        assert not leaks
    finally:
        finish(stack)
    assert (stack.settings.layout.root / "admin.key").stat().st_mode & 0o077 == 0
