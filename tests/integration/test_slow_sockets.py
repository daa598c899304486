"""Five hundred clients that neither send nor read as fast as they could: others are served meanwhile, and nothing is kept of them."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import psutil
import pytest

from tests.integration.conftest import Stack, finish, start, until

SILENT, DRIPPING, UNSENT, UNREAD = 150, 200, 110, 40
# The longest deadline (sumika/serving/http.py), and some seconds for a machine that is busy.
OVER_S = 20 + 10


@pytest.fixture
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = start(tmp_path_factory.mktemp("slow"), SUMIKA_GATEWAY__BODY_TIMEOUT_S="5")
    stack.deploy("talk", stack.base())
    yield stack
    stack.script()
    finish(stack)


def request(stack: Stack, length: int | None = None) -> bytes:
    body = json.dumps({"model": "talk", "stream": True, "messages": [{"role": "user", "content": "x"}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {stack.admin_key}\r\ncontent-type: application/json\r\ncontent-length: {length or len(body)}\r\n\r\n"
    return head.encode() + (body if length is None else b'{"model"')


def connect(stack: Stack, links: ExitStack) -> socket.socket:
    link = links.enter_context(socket.socket())
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    link.settimeout(10)
    link.connect((stack.settings.host, stack.settings.port))
    return link


def ended(link: socket.socket) -> bool:
    """Whether the gateway has closed it, after whatever it said."""
    link.setblocking(False)
    try:
        while link.recv(65_536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def test_others_are_served_while_five_hundred_dawdle(slow: Stack) -> None:
    gateway = psutil.Process(slow.role_pid("gateway"))
    assert slow.chat("talk").status_code == 200
    files, memory = gateway.num_fds(), gateway.memory_info().rss
    engine = slow.engine_of(slow.version("base@1"))
    with ExitStack() as links:
        slow.script(chunks=400, chunk_bytes=32_768)
        unread = [connect(slow, links) for _ in range(UNREAD)]
        for link in unread:
            link.sendall(request(slow))
        until(lambda: slow.running(engine) >= UNREAD, what="they are being answered")
        silent = [connect(slow, links) for _ in range(SILENT)]
        dripping = [connect(slow, links) for _ in range(DRIPPING)]
        unsent = [connect(slow, links) for _ in range(UNSENT)]
        for link in unsent:
            link.sendall(request(slow, 1_000))
        until(lambda: gateway.num_fds() >= files + 500, within=4, what="they are all there")
        slow.script()
        took, began = [], time.monotonic()
        while time.monotonic() - began < 12:
            for link in dripping:
                try:
                    link.send(b"G")
                except OSError:
                    pass  # ended in time
            asked = time.monotonic()
            assert slow.chat("talk").status_code == 200
            took.append(time.monotonic() - asked)
            time.sleep(0.3)
        assert sorted(took)[len(took) * 9 // 10] < 2, took
        until(lambda: all(map(ended, silent + dripping + unsent)), what="who sends nothing is ended")
        until(lambda: slow.running(engine) == 0, within=OVER_S, what="who reads nothing holds no engine")
        until(
            lambda: gateway.num_fds() <= files + 10,
            within=OVER_S,
            what="descriptors are given back, while the clients are still there",
        )
    assert gateway.memory_info().rss - memory < 96 * 2**20
    log = slow.logs()
    assert "Traceback" not in log, log[max(0, log.index("Traceback") - 500) :][:3_000]
