"""A log that nobody reads (a stalled log driver, Ctrl-S in a terminal) stops no role."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import httpx

from tests.integration.conftest import finish, start

ASKED = {"model": "nothing", "messages": [{"role": "user", "content": "hello"}]}


def test_gateway_answers_while_nobody_reads_its_log_and_ends_in_order(tmp_path: Path) -> None:
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    stack = start(tmp_path, stderr=write)
    try:
        stack.deploy("talk", stack.base())
        with stack.client() as client:
            for _ in range(300):  # a line each: many times what the pipe holds
                assert client.post("/v1/chat/completions", json=ASKED).status_code == 404
        assert httpx.get(f"{stack.url}/health/live", timeout=10).status_code == 200
        assert stack.chat("talk").status_code == 200
        assert os.read(read, 65_536), "it was logged"
        finish(stack)
    finally:
        os.close(write)
        os.close(read)
