"""What the gateway costs: a static upstream on a Unix socket, asked directly and through Sumika, with everything off and on.

    python benchmarks/gateway.py                       # 5 rounds of 1,000 requests at 1 and at 32 connections
    python benchmarks/gateway.py --rounds 3 --requests 500
    python benchmarks/gateway.py --profile on          # cProfile of a gateway under load, by own time

`off`: usage is not noted, no limits are set, the audit log tells nothing of requests. `usage` notes it, `limits` also has limits of
requests, tokens, streams and the month for key and alias, and `on` the audit log's metadata too. CPU is that of the gateway's
whole process by request, and beside it that of its clerk, the process that writes tables and audit log. Modes take turns within a round; told are medians
over rounds, and the median of the differences to `off` within each round, which the machine's other work hits alike.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import json
import os
import pstats
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
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

MODES = ("off", "usage", "limits", "on")
EVENTS = 64
CHAT = {"model": "bench", "messages": [{"role": "user", "content": "経費精算の締め切りはいつですか。" * 8}], "max_tokens": 64}
PLENTY = {"requests_per_minute": 10**6, "tokens_per_minute": 10**9, "streams": 10**5, "tokens_per_month": 10**15}
USAGE = '"usage":{"prompt_tokens":80,"total_tokens":144,"completion_tokens":64,"prompt_tokens_details":{"cached_tokens":64}}'
HEAD = '{"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1,"model":"bench-base@1",'


class Upstream(asyncio.Protocol):
    """Answers as vLLM would, at once and always the same: one piece of JSON, or `EVENTS` events."""

    body = (
        HEAD + '"choices":[{"index":0,"message":{"role":"assistant","content":"' + "住処" * 64 + '"}}],' + USAGE + "}"
    ).encode()
    whole = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    begin = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
    word = (
        f'data: {HEAD}"choices":[{{"index":0,"delta":{{"content":"住処"}},"logprobs":null,"finish_reason":null}}]}}\n\n'.encode()
    )
    last = f'data: {HEAD}"choices":[],{USAGE}}}\n\n'.encode()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._data = transport, b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if not end or len(body) < int(length or 0):
            return
        self._data = b""
        if b'"stream": true' in body:
            self._transport.write(self.begin)  # type: ignore[attr-defined]
            self._event(0)
        else:
            self._transport.write(self.whole)  # type: ignore[attr-defined]

    def _event(self, number: int) -> None:
        """Each in a step of its own, as tokens come."""
        chunk = self.word if number < EVENTS else self.last if number == EVENTS else b"data: [DONE]\n\n"
        self._transport.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))  # type: ignore[attr-defined]
        if number <= EVENTS:
            asyncio.get_running_loop().call_later(0.005, self._event, number + 1)
        else:
            self._transport.write(b"0\r\n\r\n")  # type: ignore[attr-defined]


async def be_upstream(path: str) -> None:
    server = await asyncio.get_running_loop().create_unix_server(Upstream, path)
    await server.serve_forever()


def be_gateway(mode: str, profile: str | None) -> None:
    """One gateway on the home that the environment names."""
    if mode == "off":
        Metering.note = _forget  # type: ignore[method-assign]
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


def _forget(*_: object) -> bool:
    """Usage, as it is where nothing is noted."""
    return True


@dataclass(frozen=True)
class Place:
    """Something to ask: directly (`process` None: its CPU is the upstream's own and not told) or one gateway."""

    mode: str
    url: str
    headers: Mapping[str, str]
    socket: str | None
    process: psutil.Process | None


def prepare(work: Path, mode: str, upstream: str) -> tuple[dict[str, str], str]:
    """A home with one base, an alias and a key; what its gateway needs in its environment, and the key."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
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
            limits.set_limits(connection, ("key", key.id), PLENTY)
            limits.set_limits(connection, ("alias", "bench"), PLENTY)
    store.close()
    audit = "metadata" if mode == "on" else "none"
    env = {"SUMIKA_HOME": str(home), "SUMIKA_PORT": str(port), "SUMIKA_AUDIT__INFERENCE": audit, "SUMIKA_LOG_LEVEL": "warning"}
    return {k: v for k, v in os.environ.items() if not k.startswith("SUMIKA_")} | env, secret


@contextmanager
def started(*words: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, __file__, *words], env=env)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def until_ready(url: str) -> None:
    for _ in range(300):
        try:
            if httpx.get(f"{url}/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    sys.exit(f"{url} did not become ready")


async def load(place: Place, connections: int, requests: int, stream: bool) -> dict[str, float]:
    """Milliseconds and requests/s of one load."""
    left, taken = iter(range(requests)), []
    body = json.dumps(CHAT | {"stream": stream} | ({"stream_options": {"include_usage": True}} if stream else {})).encode()
    connector = aiohttp.UnixConnector(place.socket) if place.socket else aiohttp.TCPConnector(limit=0)

    async def ask(session: aiohttp.ClientSession) -> None:
        for _ in left:
            began = time.perf_counter()
            async with session.post(f"{place.url}/v1/chat/completions", data=body) as answer:
                data = await answer.read()
            assert answer.status == 200 and (not stream or data.endswith(b"data: [DONE]\n\n")), data[:500]
            taken.append(time.perf_counter() - began)

    async with aiohttp.ClientSession(connector=connector, headers=place.headers) as session:
        before, clerks, began = cpu(place), clerk_cpu(place), time.perf_counter()
        await asyncio.gather(*(ask(session) for _ in range(connections)))
        seconds = time.perf_counter() - began
        await asyncio.sleep(1.2)  # what is written of these requests, too
        spent, written = cpu(place) - before, clerk_cpu(place) - clerks
    taken.sort()
    return {
        "requests/s": requests / seconds, "median ms": statistics.median(taken) * 1000,
        "p99 ms": taken[int(len(taken) * 0.99)] * 1000, "CPU ms": spent / requests * 1000, "clerk ms": written / requests * 1000,
    }  # fmt: skip


def cpu(place: Place) -> float:
    times = place.process.cpu_times() if place.process else None
    return times.user + times.system if times else 0.0


def clerk_cpu(place: Place) -> float:
    """Of the process that writes tables and audit log, off every request's path."""
    children = place.process.children() if place.process else []
    return sum(times.user + times.system for times in (child.cpu_times() for child in children))


async def compare(places: list[Place], rounds: int, requests: int) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, connections, stream in (("1 connection", 1, False), ("32 connections", 32, False), ("32 streams", 32, True)):
        number = requests // 4 if stream else requests
        seen: dict[str, list[dict[str, float]]] = defaultdict(list)
        for place in places:
            await load(place, connections, number // 5, stream)
        for turn in range(rounds):
            for place in places[turn % len(places) :] + places[: turn % len(places)]:
                seen[place.mode].append(await load(place, connections, number, stream))
        told[name] = {mode: _medians(figures, seen["off"]) for mode, figures in seen.items()}
        for mode, figures in told[name].items():
            print(f"{name:15} {mode:7} " + "  ".join(f"{key} {value:8.3f}" for key, value in figures.items()), flush=True)
    return told


def _medians(figures: list[dict[str, float]], off: list[dict[str, float]]) -> dict[str, float]:
    medians = {key: statistics.median(one[key] for one in figures) for key in figures[0]}
    more = statistics.median(one["CPU ms"] - without["CPU ms"] for one, without in zip(figures, off, strict=True))
    return medians | {"CPU ms more than off": more}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--profile", choices=MODES, help="profile one mode at 32 connections")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--to", help=argparse.SUPPRESS)
    parser.add_argument("--upstream", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.upstream:
        uvloop.run(be_upstream(options.upstream))
    elif options.serve:
        be_gateway(options.serve, options.to)
    else:
        measure(options)


def measure(options: argparse.Namespace) -> None:
    modes = [options.profile] if options.profile else options.modes.split(",")
    with tempfile.TemporaryDirectory(prefix="sumika-bench-") as folder, ExitStack() as running:
        work = Path(folder)
        upstream, stats = str(work / "upstream.sock"), str(work / "stats")
        running.enter_context(started("--upstream", upstream))
        while not Path(upstream).exists():
            time.sleep(0.05)
        places = [Place("direct", "http://upstream", {"content-type": "application/json"}, upstream, None)]
        for mode in modes:
            env, secret = prepare(work, mode, upstream)
            process = running.enter_context(started("--serve", mode, *(["--to", stats] if options.profile else []), env=env))
            url = f"http://127.0.0.1:{env['SUMIKA_PORT']}"
            until_ready(url)
            headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
            places.append(Place(mode, url, headers, None, psutil.Process(process.pid)))
        if options.profile:
            uvloop.run(load(places[1], 32, options.requests, False))
            running.close()
            pstats.Stats(stats).sort_stats("tottime").print_stats(45)
            return
        told = uvloop.run(compare(places, options.rounds, options.requests))
        if options.json:
            options.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
