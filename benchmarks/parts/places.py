"""What is asked: the upstream itself, Sumika with more and less switched on, and its peers."""

from __future__ import annotations

import cProfile
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import psutil
import uvloop
from safetensors.numpy import save_file

from sumika.models import aliases, engines, importing, keys, limits
from sumika.models.bootstrap import open_store
from sumika.models.settings import Settings, load_settings
from sumika.serving import clerk, gateway_role
from sumika.serving.metering import Metering

# `off`: usage is not noted, no limits are set, the audit log tells nothing of requests. `usage` notes it, `limits` also has limits of
# requests, tokens, streams and the month for key and alias, and `on` the audit log's metadata too.
MODES = ("off", "usage", "limits", "on")
PEERS = {"litellm": "litellm[proxy]==1.106.2", "vllm-router": "vllm-router==0.1.17"}
_PLENTY = {"requests_per_minute": 10**6, "tokens_per_minute": 10**9, "streams": 10**5, "tokens_per_month": 10**15}
_LITELLM = """
model_list:
  - {model_name: bench, litellm_params: {model: openai/bench, api_base: "http://127.0.0.1:%d/v1", api_key: none}}
general_settings: {master_key: sk-bench}
litellm_settings: {telemetry: false}
"""


class Spent(NamedTuple):
    """Seconds of CPU: of the process that answers, and of those beside it."""

    own: float
    beside: float


@dataclass(frozen=True)
class Place:
    """Something to ask; `process` None: its CPU is not told. `family`: its children answer too."""

    name: str
    url: str
    key: str
    process: psutil.Process | None = None
    family: bool = False
    model: str = "bench"

    def spent(self) -> Spent:
        if self.process is None:
            return Spent(0, 0)
        own, children = _seconds(self.process), sum(map(_seconds, self.process.children(recursive=True)))
        return Spent(own + children, 0) if self.family else Spent(own, children)


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(*command: str | Path, env: dict[str, str] | None = None, quiet: bool = False) -> Iterator[psutil.Process]:
    out = subprocess.DEVNULL if quiet else None
    process = subprocess.Popen([str(word) for word in command], env=env, stdout=out, stderr=out)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def until_ready(url: str, within_s: float = 120, key: str | None = None) -> None:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if httpx.get(url, headers=headers).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    sys.exit(f"{url} did not become ready")


@contextmanager
def sumika(work: Path, mode: str, upstream: str, profile: Path | None = None) -> Iterator[Place]:
    env, secret = prepare(work, mode, upstream)
    url = f"http://127.0.0.1:{env['SUMIKA_PORT']}"
    told = ["--to", str(profile)] if profile else []
    with running(sys.executable, sys.argv[0], "--serve", mode, *told, env=env) as process:
        until_ready(f"{url}/health/ready")
        yield Place(mode, url, secret, process)


def prepare(work: Path, mode: str, upstream: str) -> tuple[dict[str, str], str]:
    """A home with one base, an alias and a key; what its gateway needs in its environment, and the key."""
    home = work / mode
    store = open_store(Settings(home=home))
    folder = work / "base"
    if not folder.exists():
        folder.mkdir()
        save_file({"model.norm.weight": np.ones(8, dtype=np.float32)}, folder / "model.safetensors")
        (folder / "config.json").write_text('{"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"}')
        (folder / "tokenizer.json").write_text("{}")
    base = importing.import_base(store, Settings(home=home).layout, "bench-base", folder)
    with store.write() as connection:
        aliases.finish(connection, aliases.ask_deploy(connection, "bench", base, actor="bench", reason=""), None)
        engines.add(connection, "e1", base.id, upstream)
        engines.change(connection, "e1", state="ready")
        secret, key = keys.create(connection, "bench")
        if mode in ("limits", "on"):
            limits.set_limits(connection, ("key", key.id), _PLENTY)
            limits.set_limits(connection, ("alias", "bench"), _PLENTY)
    store.close()
    audit = "metadata" if mode == "on" else "none"
    env = {
        "SUMIKA_HOME": str(home), "SUMIKA_PORT": str(free_port()), "SUMIKA_AUDIT__INFERENCE": audit, "SUMIKA_LOG_LEVEL": "warning",
        "SUMIKA_GATEWAY__MAX_RUNNING_PER_ENGINE": "4096",
    }  # fmt: skip
    return {k: v for k, v in os.environ.items() if not k.startswith("SUMIKA_")} | env, secret


def be_gateway(mode: str, profile: str | None) -> None:
    """One gateway on the home that the environment names."""
    if mode == "off":
        Metering.note = lambda *_: True  # type: ignore[method-assign]
    settings = load_settings()
    with clerk.beside(settings) as ours:
        store = open_store(settings)
        profiler = cProfile.Profile()
        if profile:
            profiler.enable()
        try:
            uvloop.run(gateway_role.serve(settings, store, None, ours))
        finally:
            if profile:
                profiler.dump_stats(profile)


@contextmanager
def litellm(work: Path, peers: Path, upstream_port: int) -> Iterator[Place]:
    """Its proxy, one worker, a master key, no database: no usage, no limits, no audit."""
    config, port = work / "litellm.yaml", free_port()
    config.write_text(_LITELLM % upstream_port)
    env = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "NO_DOCS": "True"}
    command = [_installed(peers, "litellm"), "--config", config, "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    with running(*command, env=env, quiet=True) as process:
        until_ready(f"http://127.0.0.1:{port}/health/liveliness")
        yield Place("litellm", f"http://127.0.0.1:{port}", "sk-bench", process, family=True)


@contextmanager
def vllm_router(work: Path, peers: Path, upstream_port: int) -> Iterator[Place]:  # noqa: ARG001
    """vLLM's own router, in Rust: it looks at no key of ours, and keeps no record."""
    port = free_port()
    command = [
        _installed(peers, "vllm-router"), "--host", "127.0.0.1", "--port", str(port), "--worker-urls", f"http://127.0.0.1:{upstream_port}",
        "--policy", "round_robin", "--log-level", "error", "--prometheus-port", str(free_port()),
    ]  # fmt: skip
    with running(*command, quiet=True) as process:
        until_ready(f"http://127.0.0.1:{port}/health")
        yield Place("vllm-router", f"http://127.0.0.1:{port}", "-", process, family=True)


def _installed(peers: Path, name: str) -> Path:
    """Its program, in an environment of its own."""
    program = peers / name / "bin" / name
    if not program.exists():
        print(f"installing {PEERS[name]} …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(peers / name)], check=True)
        subprocess.run([str(peers / name / "bin" / "pip"), "install", "--quiet", PEERS[name]], check=True)
    return program
