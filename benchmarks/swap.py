"""Swaps under load, on real vLLM: does anybody lose an answer, and how long until the new version speaks?

    python benchmarks/swap.py                 # 32 streaming clients, 20 adapter swaps, 3 base swaps, then rollbacks
    python benchmarks/swap.py --clients 8 --swaps 5 --base-swaps 0
    python benchmarks/swap.py --swaps 0 --base-swaps 2 --memory-gib 6 --home var/bench-hold
                                              # no room for two engines: requests wait meanwhile (a home with no adapter in service)

It uses a home of its own under var/bench (kept, so that a second run starts at once): the demo's base twice, and
three adapters trained to say different words. Every stream is checked: status 200, whole to its [DONE], answered by a version
that was in service at some moment between its request and its first byte, and in that version's words. The time of a swap runs from the
command to the first token of the new version, asked for by a client of its own as soon as the alias has moved.
Exit code 1 if any request failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from sumika.cli import pulling
from sumika.finetune import config as jobs
from sumika.models import aliases, catalog, importing, moves, registry
from sumika.models.bootstrap import open_store
from sumika.models.errors import SumikaError
from sumika.models.moves import Move
from sumika.models.registry import Version
from sumika.models.settings import Settings
from sumika.models.store import Store

ALIAS, PLAIN = "bench", "bench-base"
# Adapter → what it says. Three, in turn: of two, each is what a rollback of the other leads to, so both stay loaded and no swap would load one.
WORDS = {"meow": "ニャーと鳴きます。", "woof": "ワンと吠えます。", "moo": "モーと鳴きます。"}
QUESTION = "あなたはどう鳴きますか。"
JOB = Path("configs/finetune/sakura-faq.yaml")


@dataclass
class Clients:
    """Streams that never pause, and what became of them."""

    url: str
    key: str
    failed: list[str] = field(default_factory=list)
    answered: dict[str, int] = field(default_factory=dict)
    first_bytes: list[float] = field(default_factory=list)
    in_service: dict[str, set[str]] = field(default_factory=dict)
    stop: bool = False

    async def ask(self, session: aiohttp.ClientSession, alias: str, only: str | None = None) -> tuple[str, float]:
        """One stream to its end: the version that spoke, and seconds to its first token. Left at once where `only` another
        version is wanted to speak."""
        allowed, began, first = set(self.in_service[alias]), time.perf_counter(), 0.0
        body = {
            "model": alias,
            "messages": [{"role": "user", "content": QUESTION}],
            "stream": True,
            "max_tokens": 16,
            "temperature": 0,
        }
        async with session.post("/v1/chat/completions", json=body) as response:
            if response.status != 200:
                raise ValueError(f"status {response.status}: {await response.text()}")
            version = response.headers["x-sumika-version"]
            if only not in (None, version):
                return version, 0.0
            last, text = b"", ""
            async for line in response.content:
                first = first or time.perf_counter() - began
                last = line.strip() or last
                text += spoken(line)
            if last != b"data: [DONE]":
                raise ValueError(f"{version}: the stream broke off with {last[:200]!r}")
        if version not in allowed | self.in_service[alias]:
            raise ValueError(f"answered by {version}, in service were {allowed | self.in_service[alias]}")
        word = WORDS.get(version.partition("@")[0], "")
        if not text.startswith(word):
            raise ValueError(f"{version} said {text!r}")
        return version, first

    async def run(self, session: aiohttp.ClientSession, alias: str) -> None:
        while not self.stop:
            try:
                version, first = await self.ask(session, alias)
            except (TimeoutError, ValueError, aiohttp.ClientError) as error:
                self.failed.append(f"{alias}: {error}")
                await asyncio.sleep(0.2)
            else:
                self.answered[version] = self.answered.get(version, 0) + 1
                self.first_bytes.append(first)


def spoken(line: bytes) -> str:
    """The text of one server-sent event."""
    if not line.startswith(b"data: {"):
        return ""
    return json.loads(line[6:])["choices"][0]["delta"].get("content") or ""


async def moved(store: Store, clients: Clients, session: aiohttp.ClientSession, move: Move, began: float) -> tuple[float, float]:
    """Seconds from the command until the alias moved, and until the new version's first token."""
    clients.in_service[move.alias].add(str(move.to_ref))
    while move.state == "open":
        await asyncio.sleep(0.01)
        with store.read() as connection:
            move = moves.get(connection, move.id)
    if move.state != "done":
        raise SystemExit(f"the move to {move.to_ref} was refused: {move.error}")
    at_alias = time.perf_counter() - began
    while True:
        sent = time.perf_counter()
        version, first = await clients.ask(session, move.alias, only=str(move.to_ref))
        if version == str(move.to_ref):
            break
    clients.in_service[move.alias] = {version}
    return at_alias, sent + first - began


async def served(store: Store, clients: Clients, session: aiohttp.ClientSession, move: Move) -> None:
    """An alias that is new: until the gateway knows it."""
    while move.state == "open":
        await asyncio.sleep(0.1)
        with store.read() as connection:
            move = moves.get(connection, move.id)
    if move.state != "done":
        raise SystemExit(f"{move.to_ref} can't be served: {move.error}")
    clients.in_service[move.alias] = {str(move.to_ref)}
    while (await session.get(f"/v1/models/{move.alias}")).status != 200:
        await asyncio.sleep(0.05)


def asked(store: Store, alias: str, to: Version | None) -> tuple[Move, float]:
    began = time.perf_counter()
    with store.write() as connection:
        if to is None:
            return aliases.ask_rollback(connection, alias, actor="bench", reason=""), began
        return aliases.ask_deploy(connection, alias, to, actor="bench", reason=""), began


def prepare(settings: Settings, store: Store, words: Collection[str]) -> tuple[list[Version], list[Version]]:
    """Two bases with the same weights, and an adapter for each of `words`, made where they are missing."""
    pulled = pulling.pull(settings, store, catalog.get("gemma-3-270m"))
    with store.read() as connection:
        bases = [registry.newest(connection, "gemma-3-270m") or pulled]
        copy = registry.newest(connection, "gemma-copy")
        adapters = [registry.newest(connection, name) for name in words]
    if copy is None:
        folder = settings.layout.root / "copy"
        shutil.copytree(
            settings.layout.artifacts / bases[0].folder,
            folder,
            ignore=shutil.ignore_patterns("manifest.json"),
            dirs_exist_ok=True,
        )
        copy = importing.import_base(store, settings.layout, "gemma-copy", folder, meta=bases[0].meta)
        shutil.rmtree(folder)
    return [*bases, copy], [found or trained(settings, store, name) for name, found in zip(words, adapters, strict=True)]


def words(options: argparse.Namespace) -> Collection[str]:
    """No adapter where none is swapped: one in service would need its own engine beside the one that a base swap starts."""
    return WORDS if options.swaps else ()


def trained(settings: Settings, store: Store, name: str) -> Version:
    from rich.console import Console

    from sumika.finetune import pipeline

    folder = settings.layout.root / name
    folder.mkdir(exist_ok=True)
    turn = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": WORDS[name]}]
    held = [{"role": "user", "content": QUESTION.replace("。", "？")}, turn[1]]
    for file, row in (("train", {"messages": turn}), ("held", {"messages": held, "facts": [[WORDS[name]]]})):
        (folder / f"{file}.jsonl").write_text((json.dumps(row, ensure_ascii=False) + "\n") * (2 if file == "train" else 1))
    config = jobs.load(JOB, [
        f"data.train={folder}/train.jsonl", f"evaluate.held_out={folder}/held.jsonl", f"serve.alias={name}", "train.epochs=30", "train.batch_tokens=64",
    ])  # fmt: skip
    return pipeline.run(config, store, settings.layout, Console(stderr=True))


async def bench(settings: Settings, store: Store, options: argparse.Namespace) -> int:
    bases, adapters = prepare(settings, store, words(options))
    clients = Clients(f"http://{settings.host}:{settings.port}", settings.layout.admin_key.read_text().strip())
    clients.in_service = {ALIAS: set(), PLAIN: set()}
    figures: dict[str, list[tuple[float, float]]] = {"adapter swap": [], "adapter rollback": [], "base swap": []}
    timeout = aiohttp.ClientTimeout(total=None, sock_read=300)
    headers = {"authorization": f"Bearer {clients.key}"}
    async with aiohttp.ClientSession(
        clients.url, headers=headers, timeout=timeout, connector=aiohttp.TCPConnector(limit=0)
    ) as session:
        first = {PLAIN: bases[0]} | ({ALIAS: adapters[0]} if adapters else {})
        for alias, version in first.items():
            await served(store, clients, session, asked(store, alias, version)[0])
        running = [
            asyncio.create_task(clients.run(session, ALIAS if adapters and i % 4 else PLAIN)) for i in range(options.clients)
        ]
        try:
            await asyncio.sleep(5)
            await swap_all(store, clients, session, figures, bases, adapters, options)
            clients.stop = True
            await asyncio.gather(*running)
        finally:
            tell(clients, figures, options)
    return 1 if clients.failed else 0


async def swap_all(
    store: Store,
    clients: Clients,
    session: aiohttp.ClientSession,
    figures: dict[str, list[tuple[float, float]]],
    bases: list[Version],
    adapters: list[Version],
    options: argparse.Namespace,
) -> None:
    async def move(what: str, alias: str, to: Version | None) -> None:
        figures[what].append(await moved(store, clients, session, *asked(store, alias, to)))

    for turn in range(options.swaps):
        await move("adapter swap", ALIAS, adapters[(turn + 1) % len(adapters)])
    for _ in range(min(options.swaps, 5)):
        await move("adapter rollback", ALIAS, None)
    for turn in range(options.base_swaps):
        await move("base swap", PLAIN, bases[(turn + 1) % 2])


def tell(clients: Clients, figures: dict[str, list[tuple[float, float]]], options: argparse.Namespace) -> None:
    print(f"\n{options.clients} streaming clients; answers by version: {clients.answered}")
    print(f"failed requests: {len(clients.failed)} of {sum(clients.answered.values()) + len(clients.failed)}")
    for failure in clients.failed[:5]:
        print(f"  {failure}")
    if not clients.first_bytes:
        return
    print(
        f"first token of any stream: median {statistics.median(clients.first_bytes):.2f} s, worst {max(clients.first_bytes):.2f} s"
    )
    for name, seconds in figures.items():
        for what, values in (("alias moved", [a for a, _ in seconds]), ("first token", [b for _, b in seconds])):
            if values:
                print(
                    f"{name:17} {len(values):3}x  {what}: median {statistics.median(values):6.2f} s, worst {max(values):6.2f} s"
                )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--base-swaps", type=int, default=3)
    parser.add_argument(
        "--memory-gib", type=float, help="what engines may take; with too little for two, base swaps hold requests"
    )
    parser.add_argument("--home", type=Path, default=Path("var/bench"))
    parser.add_argument("--port", type=int, default=8019)
    options = parser.parse_args()
    settings = Settings(home=options.home, port=options.port)
    store = open_store(settings)
    prepare(settings, store, words(options))
    # On few cores an engine that starts beside 32 streams takes many times as long as alone; that is not what is asked here.
    env = {"SUMIKA_HOME": str(options.home), "SUMIKA_PORT": str(options.port), "SUMIKA_ENGINE__START_TIMEOUT_S": "3600"}
    if options.memory_gib is not None:
        env["SUMIKA_ENGINE__MEMORY_GIB"] = str(options.memory_gib)
    log = (settings.layout.logs / "bench.log").open("ab")
    stack = subprocess.Popen([sys.executable, "-m", "sumika.cli.main", "up"], env=os.environ | env, stdout=log, stderr=log)
    try:
        return asyncio.run(bench(settings, store, options))
    except SumikaError as error:
        print(error.en, file=sys.stderr)
        return 1
    finally:
        stack.send_signal(signal.SIGTERM)
        stack.wait()


if __name__ == "__main__":
    sys.exit(main())
