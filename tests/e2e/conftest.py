"""Real vLLM, the real demo base, a real LoRA job: made once for the session."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from sumika.cli import pulling
from sumika.models import aliases, catalog, engines, moves, registry
from sumika.models.bootstrap import open_store
from sumika.models.engines import EngineRow
from sumika.models.moves import Move
from sumika.models.names import VersionRef
from sumika.models.registry import Version
from sumika.models.settings import Settings
from sumika.models.store import Store
from tests.conftest import ROOT
from tests.integration.conftest import free_port, until
from tests.otlp_receiver import Receiver, receiving

BASE = "gemma-3-270m"
START_S = 600  # vLLM on two busy cores
# Fewer than there are adapters, so that vLLM forgets some and reads them again.
MAX_LORAS, MAX_CPU_LORAS = 8, 16
QUESTIONS = {
    "社員食堂の営業時間を教えてください。": "社員食堂は11時20分から13時40分まで営業しています。",
    "名刺はどこで注文できますか。": "名刺は社内ポータル「さくらネット」の物品申請から注文してください。",
}


@dataclass
class Real:
    """A running Sumika on real vLLM, with the base and an adapter trained on two questions."""

    settings: Settings
    store: Store
    process: subprocess.Popen[bytes]
    log: Path
    adapter: Version
    collector: Receiver

    @property
    def url(self) -> str:
        return f"http://{self.settings.host}:{self.settings.port}/v1"

    @property
    def key(self) -> str:
        return self.settings.layout.admin_key.read_text().strip()

    @property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.url, api_key=self.key, max_retries=0, timeout=120)

    def engine(self) -> EngineRow:
        with self.store.read() as connection:
            (row,) = engines.list_all(connection)
        return row

    @property
    def base(self) -> Version:
        assert self.adapter.base is not None
        with self.store.read() as connection:
            return registry.get(connection, self.adapter.base)

    def running(self) -> int:
        with httpx.Client(transport=httpx.HTTPTransport(uds=self.engine().socket)) as client:
            lines = client.get("http://engine/metrics").text.splitlines()
        return int(sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running")))

    def deploy(self, alias: str, version: Version) -> Move:
        with self.store.write() as connection:
            move = aliases.ask_deploy(connection, alias, version, actor="test", reason="")

        def ended() -> Move | None:
            assert self.process.poll() is None, self.log.read_text()
            with self.store.read() as connection:
                now = moves.get(connection, move.id)
            return now if now.state != "open" else None

        found: Move = until(ended, within=START_S, what=f"move to {version.ref}")
        return found

    def served(self, alias: str, version: Version) -> bool:
        return any(m.id == alias and m.model_dump()["sumika"]["version"] == str(version.ref) for m in self.openai.models.list())


def run_cli(settings: Settings, *words: str) -> Any:
    """`sumika … --json` as a person runs it; what it printed."""
    told = subprocess.run(
        [sys.executable, "-m", "sumika.cli.main", *words, "--json"],
        env=environment(settings),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


def environment(settings: Settings) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SUMIKA_")}
    return clean | {
        "SUMIKA_HOME": str(settings.home), "SUMIKA_PORT": str(settings.port),
        "SUMIKA_ENGINE__MAX_LORAS": str(MAX_LORAS), "SUMIKA_ENGINE__MAX_CPU_LORAS": str(MAX_CPU_LORAS),
    }  # fmt: skip


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Store, Version]:
    """The base imported, and an adapter from a real run of `sumika finetune`."""
    work = tmp_path_factory.mktemp("e2e")
    settings = Settings(home=work / "home", port=free_port())
    store = open_store(settings)
    pulling.pull(settings, store, catalog.get(BASE, ROOT / "configs" / "catalog"))
    rows = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in QUESTIONS.items()]
    held = [
        {"messages": [{"role": "user", "content": q.replace("。", "？")}, {"role": "assistant", "content": a}], "facts": [[a]]}
        for q, a in QUESTIONS.items()
    ]
    for name, lines in (("train", rows), ("held", held)):
        (work / f"{name}.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    told = run_cli(
        settings, "finetune", "run", "configs/finetune/sakura-faq.yaml", f"data.train={work}/train.jsonl", f"evaluate.held_out={work}/held.jsonl",
        "serve.alias=canteen", "train.epochs=24", "train.batch_tokens=78",
    )  # fmt: skip
    with store.read() as connection:
        return settings, store, registry.get(connection, VersionRef.parse(told["version"]))


@pytest.fixture(scope="session")
def collector() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def real(
    trained: tuple[Settings, Store, Version], collector: Receiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Real]:
    settings, store, adapter = trained
    env = environment(settings) | {"SUMIKA_TELEMETRY__OTLP_ENDPOINT": collector.url}
    log = tmp_path_factory.mktemp("real") / "stack.log"
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "sumika.cli.main", "up"], env=env, cwd=ROOT, stdout=file, stderr=file)
    made = Real(settings, store, process, log, adapter, collector)
    try:
        with store.read() as connection:
            base = registry.by_id(connection, adapter.engine_base_id)
        for alias, version in ((BASE, base), ("canteen", adapter)):
            move = made.deploy(alias, version)
            assert move.state == "done", move.error
            until(lambda alias=alias, version=version: made.served(alias, version), what=f"{alias} is seen")  # type: ignore[misc]
        yield made
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=90) == 0, log.read_text()
        assert made.store.engine is not None
