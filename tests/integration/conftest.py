"""The real stack (`sumika up`) as a process, with the fake engine in vLLM's place."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from sumika.models import aliases, engines, importing, keys, moves, registry
from sumika.models.bootstrap import open_store
from sumika.models.engines import EngineRow
from sumika.models.moves import Move
from sumika.models.names import VersionRef
from sumika.models.registry import Version
from sumika.models.settings import Settings
from sumika.models.store import Store
from tests.conftest import ROOT, write_adapter, write_base

# Before torch is loaded. Several of these tests run at once on two cores: threads that spin for one another made a training nine times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

FAKE_ENGINE = [sys.executable, str(ROOT / "tests" / "fake_engine.py")]


def until(true: Callable[[], Any], *, within: float = 30, what: str = "") -> Any:
    """Wait for something to be; the value it gave."""
    deadline = time.monotonic() + within
    while not (value := true()):
        assert time.monotonic() < deadline, f"not within {within} s: {what}"
        time.sleep(0.05)
    return value


@dataclass
class Stack:
    """A running Sumika, and the hands to work it."""

    settings: Settings
    store: Store
    process: subprocess.Popen[bytes]
    log: Path
    work: Path
    env: dict[str, str]

    @property
    def url(self) -> str:
        return f"http://{self.settings.host}:{self.settings.port}"

    @property
    def admin_key(self) -> str:
        return self.settings.layout.admin_key.read_text().strip()

    def client(self, key: str | None = None, **headers: str) -> httpx.Client:
        auth = {"authorization": f"Bearer {key or self.admin_key}"}
        return httpx.Client(base_url=self.url, headers=auth | headers, timeout=30)

    def script(self, **faults: Any) -> None:
        """What the fake engines shall do from now on."""
        path = self.settings.layout.sockets / "fake.json"
        temp = path.with_suffix(".new")
        temp.write_text(json.dumps(faults))
        temp.rename(path)

    def base(self, name: str = "base", seed: int = 0, meta: dict[str, Any] | None = None) -> Version:
        folder = self.work / f"{name}-{seed}"
        source = folder if folder.exists() else write_base(folder, seed=seed)
        return importing.import_base(self.store, self.settings.layout, name, source, meta=meta)

    def asked(self, version: Version) -> dict[str, Any]:
        """What the gateway sent last to the engine of a version: `path`, `request_id`, `traceparent` (None: none), `body`."""
        told: dict[str, Any] = json.loads(Path(self.engine_of(version).socket).with_suffix(".asked").read_text())
        return told

    def adapter(self, name: str, base: Version, **wrong: Any) -> Version:
        folder = write_adapter(self.work / f"{name}-{time.monotonic_ns()}", **wrong)
        return importing.import_adapter(self.store, self.settings.layout, name, folder, base=base.ref, max_lora_rank=16)

    def ask(self, alias: str, version: Version) -> Move:
        with self.store.write() as connection:
            return aliases.ask_deploy(connection, alias, version, actor="test", reason="")

    def ended(self, move: Move, within: float = 30) -> Move:
        def look() -> Move | None:
            with self.store.read() as connection:
                now = moves.get(connection, move.id)
            return now if now.state != "open" else None

        found: Move = until(look, within=within, what=f"move to {move.to_ref}")
        return found

    def canary(self, alias: str, version: Version, share: int) -> Move:
        with self.store.write() as connection:
            return aliases.ask_canary(connection, alias, version, share, actor="test", reason="")

    def deploy(self, alias: str, version: Version) -> Move:
        """Deployed, and seen by the gateway."""
        move = self.ended(self.ask(alias, version))
        assert move.state == "done", move.error
        until(lambda: self.served(alias) == str(version.ref), what=f"{alias} at {version.ref}")
        return move

    def served(self, alias: str) -> str | None:
        with self.client() as client:
            response = client.get(f"/v1/models/{alias}")
        return response.json()["sumika"]["version"] if response.status_code == 200 else None

    def chat(self, alias: str, **more: Any) -> httpx.Response:
        with self.client() as client:
            return client.post(
                "/v1/chat/completions", json={"model": alias, "messages": [{"role": "user", "content": "hello"}]} | more
            )

    def engines(self) -> list[EngineRow]:
        with self.store.read() as connection:
            return engines.list_all(connection)

    def engine_of(self, version: Version) -> EngineRow:
        base_id = version.engine_base_id
        found: EngineRow = until(lambda: next((e for e in self.engines() if e.base_id == base_id and e.state == "ready"), None))
        return found

    def running(self, engine: EngineRow) -> int:
        with httpx.Client(transport=httpx.HTTPTransport(uds=engine.socket)) as client:
            text = client.get("http://engine/metrics").text
        return int(next(line.split()[-1] for line in text.splitlines() if line.startswith("vllm:num_requests_running")))

    def role_pid(self, role: str) -> int:
        import psutil

        def look() -> int | None:
            children = psutil.Process(self.process.pid).children()
            return next((c.pid for c in children if c.status() != psutil.STATUS_ZOMBIE and role in c.cmdline()), None)

        found: int = until(look, what=f"process of {role}")
        return found

    def new_key(self, **options: Any) -> tuple[str, str]:
        """(secret, id), known to the gateway."""
        with self.store.write() as connection:
            secret, key = keys.create(connection, "test", **options)
        with self.client(secret) as client:
            until(lambda: client.get("/v1/models").status_code == 200, what="the new key is known")
        return secret, key.id

    def version(self, text: str) -> Version:
        with self.store.read() as connection:
            return registry.get(connection, VersionRef.parse(text))

    def logs(self) -> str:
        files = [self.log, *self.settings.layout.logs.glob("*")]
        return "\n".join(file.read_text(errors="replace") for file in files)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(work: Path, role: str = "up", stderr: int | None = None, **env: str) -> Stack:
    """`sumika up` (or one of its roles alone) in a home under `work`; the same home again where there is one. `stderr`: where
    it logs instead of `Stack.log`."""
    port = int(env.get("SUMIKA_PORT", 0)) or free_port()
    engine = {"command": FAKE_ENGINE, "stop_timeout_s": 2, "device": "cpu"}
    settings = Settings(home=work / "home", port=port, engine=engine, database_url=env.get("SUMIKA_DATABASE_URL"))
    variables = {
        "SUMIKA_HOME": str(work / "home"), "SUMIKA_PORT": str(port), "SUMIKA_ENGINE__COMMAND": json.dumps(FAKE_ENGINE),
        "SUMIKA_ENGINE__STOP_TIMEOUT_S": "2", "SUMIKA_ENGINE__DEVICE": "cpu", "SUMIKA_GATEWAY__SHUTDOWN_DELAY_S": "0",
        # Fake engines take next to nothing; what they would take must not run into this machine's limits.
        "SUMIKA_ENGINE__CPU_KV_CACHE_GIB": "1", "SUMIKA_ENGINE__MEMORY_GIB": "1000",
    }  # fmt: skip
    log = work / "stack.log"
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SUMIKA_")} | variables | env
    with log.open("ab") as file:
        command = [sys.executable, "-m", "sumika.cli.main", role]
        process = subprocess.Popen(command, env=clean, stdout=file, stderr=file if stderr is None else stderr, cwd=ROOT)
    stack = Stack(settings, open_store(settings), process, log, work, clean)
    until(lambda: _alive(stack), within=120, what=f"gateway; log:\n{log.read_text()}")
    return stack


def _alive(stack: Stack) -> bool:
    assert stack.process.poll() is None, stack.log.read_text()
    try:
        return httpx.get(f"{stack.url}/health/live").status_code == 200
    except httpx.TransportError:
        return False


def finish(stack: Stack) -> None:
    """End the stack and see that it went in order and left nothing behind."""
    pids = [engine.pid for engine in stack.engines() if engine.pid]
    assert stack.stop() == 0, stack.log.read_text()
    assert not any(_runs(pid) for pid in pids), "an engine outlived the stack"
    tripped = stack.settings.layout.sockets / "tripped.txt"
    assert not tripped.exists(), f"what no user may reach of the engine was reached: {tripped.read_text()[:1_000]}"
    stack.store.close()


def _runs(pid: int) -> bool:
    import psutil

    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One stack for a module whose tests leave each other alone."""
    started = start(tmp_path_factory.mktemp("stack"))
    yield started
    started.script()
    finish(started)


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[Stack]:
    """A stack to break."""
    started = start(tmp_path)
    yield started
    started.script()
    finish(started)
