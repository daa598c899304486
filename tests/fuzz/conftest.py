"""A real stack before a fake engine whose every dangerous route is a tripwire, and the rules that hold when it is over."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import pytest

from tests.fuzz.judge import Client
from tests.fuzz.values import MARK
from tests.integration.conftest import Stack, finish, start, until

# A gateway's memory after it has answered everything once. Python's and libc's allocators keep what they once had; a leak of one
# body of a kilobyte in each of 3,000 requests would be 3 MiB, and of 50,000 far over this.
_MOST_GROWTH_BYTES = 24 * 2**20
# Connections of the pool to the store and of the journal come and go.
_MOST_NEW_FILES = 8


@dataclass(frozen=True)
class House:
    """What is attacked, and whether it still stands."""

    stack: Stack
    client: Client
    # May ask models and nothing else.
    app_key: str

    @property
    def gateway(self) -> psutil.Process:
        return psutil.Process(self.stack.role_pid("gateway"))

    def serves(self) -> None:
        """The canary: somebody else's request is answered."""
        assert self.stack.chat("canary").status_code == 200

    @contextmanager
    def flat(self) -> Iterator[None]:
        """What comes inside leaves memory and descriptors as they were. Something like it must have been done before."""
        gateway = self.gateway
        before, files = gateway.memory_info().rss, gateway.num_fds()
        yield
        self.client.close()
        self.serves()
        assert self.gateway.pid == gateway.pid, "the gateway was started again"
        until(lambda: gateway.num_fds() <= files + _MOST_NEW_FILES, within=20, what="descriptors are given back")
        grown = gateway.memory_info().rss - before
        print(f"grown by {grown / 2**20:.1f} MiB, {gateway.num_fds() - files} descriptors")  # noqa: T201
        assert grown <= _MOST_GROWTH_BYTES


@pytest.fixture(scope="package")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    stack = start(tmp_path_factory.mktemp("fuzz"), SUMIKA_GATEWAY__BODY_TIMEOUT_S="3")
    chat = stack.base(meta={"serve": {"tool_call_parser": "hermes", "reasoning_parser": "qwen3"}})
    for alias in ("talk", "canary"):
        stack.deploy(alias, chat)
    stack.deploy("ruri", stack.base("vectors", seed=1, meta={"task": "embedding"}))
    stack.deploy("ranks", stack.base("ranks", seed=2, meta={"task": "rerank"}))
    client = Client(stack.settings.host, stack.settings.port, stack.admin_key)
    yield House(stack, client, stack.new_key()[0])
    client.close()
    time.sleep(0.5)
    told = stack.logs()
    assert MARK not in told, "a log holds something of a body"
    assert "Traceback" not in told, told[told.find("Traceback") - 500 :][:3_000]
    finish(stack)  # which looks for tripwires


@pytest.fixture(autouse=True)
def _stands(house: House) -> Iterator[None]:
    yield
    house.serves()
