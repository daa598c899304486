"""What the gateway costs: an upstream that answers at once, asked directly, through Sumika, and through its peers.

    python benchmarks/gateway.py                       # what usage, limits and audit cost: Sumika with everything off and on
    python benchmarks/gateway.py --peers var/peers     # Sumika with everything on beside LiteLLM's proxy and vllm-router
    python benchmarks/gateway.py --vllm var/bench-vllm # real vLLM by its own socket, and through Sumika
    python benchmarks/gateway.py --profile on          # cProfile of a gateway under load, by own time

The first: closed loops of 1 and 32 connections and 32 streams. With `--peers` (the folder they are installed in, each by itself) also 256 streams at once of 50
events a second, how late each event comes; and fixed rates of arrival: the highest that keeps the 95th percentile of the time to the first byte within
5 ms of asking directly. CPU is that of the gateway's whole process by request, and beside it that of its clerk, the process that
writes tables and audit log. Places take turns within a round; told are medians over rounds, and for CPU the median of the differences to
the first place after `direct` within each round, which the machine's other work hits alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import pstats
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import uvloop
from parts import loads, places, real, upstream
from parts.places import MODES, Place

RATES = (100, 200, 400, 600, 800, 1000, 1300, 1600, 2000, 2500, 3000, 4000)
RATE_S = 3.0
WITHIN_MS = 5.0

Figures = dict[str, float]


# Name, connections, streams or not, and requests as a part of `--requests`.
LOADS = (("1 connection", 1, False, 1.0), ("32 connections", 32, False, 1.0), ("32 streams", 32, True, 0.25))
VLLM_LOADS = (("1 stream", 1, True, 0.008), ("32 streams", 32, True, 0.064))


async def compare(
    asked: Sequence[Place], rounds: int, requests: int, of: Sequence[tuple[str, int, bool, float]] = LOADS
) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, connections, stream, part in of:
        number = int(requests * part)
        seen: dict[str, list[Figures]] = defaultdict(list)
        for place in asked:
            await loads.closed(place, connections, max(connections, number // 5), stream=stream)
        for turn in range(rounds):
            for place in _in_turn(asked, turn):
                seen[place.name].append(await loads.closed(place, connections, number, stream=stream))
        told[name] = {place: _medians(figures, seen[asked[1].name]) for place, figures in seen.items()}
        _tell(name, told[name])
    return told


async def at_reading_pace(asked: Sequence[Place], rounds: int) -> dict[str, Figures]:
    seen: dict[str, list[Figures]] = defaultdict(list)
    for turn in range(rounds):
        for place in _in_turn(asked, turn):
            seen[place.name].append(await loads.at_reading_pace(place))
    told = {place: {key: statistics.median(one[key] for one in figures) for key in figures[0]} for place, figures in seen.items()}
    for figures in told.values():
        figures["p99 ms more than direct"] = figures["p99 ms"] - told["direct"]["p99 ms"]
    _tell(f"{loads.STREAMS} streams", told)
    return told


async def knees(asked: Sequence[Place], rounds: int) -> dict[str, Figures]:
    """For each place, the highest of `RATES` that it takes."""
    going, told = list(asked), {place.name: {"rate/s": 0.0} for place in asked}
    for rate in RATES:
        late: dict[str, list[float]] = defaultdict(list)
        for turn in range(rounds):
            for place in _in_turn(going, turn):
                late[place.name].append(await loads.at_rate(place, rate, RATE_S))
                await asyncio.sleep(0.3)
        direct = statistics.median(late["direct"])
        for place in [place for place in going if place.name != "direct"]:
            if statistics.median(late[place.name]) - direct <= WITHIN_MS:
                told[place.name] = {"rate/s": float(rate), "p95 ms": statistics.median(late[place.name]), "direct p95 ms": direct}
            else:
                going.remove(place)
        if len(going) == 1:
            break
    del told["direct"]
    _tell("knee", told)
    return told


def _in_turn(asked: Sequence[Place], turn: int) -> list[Place]:
    return [*asked[turn % len(asked) :], *asked[: turn % len(asked)]]


def _medians(figures: list[Figures], least: list[Figures]) -> Figures:
    medians = {key: statistics.median(one[key] for one in figures) for key in figures[0]}
    more = statistics.median(one["CPU ms"] - without["CPU ms"] for one, without in zip(figures, least, strict=True))
    return medians | {"CPU ms more": more}


def _tell(name: str, told: dict[str, Figures]) -> None:
    for place, figures in told.items():
        print(f"{name:15} {place:12} " + "  ".join(f"{key} {value:9.3f}" for key, value in figures.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--peers", type=Path, help="beside its peers, which are installed in this folder where they aren't")
    parser.add_argument("--vllm", type=Path, help="real vLLM, started on this home, which is kept")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--profile", choices=MODES, help="profile one mode at 32 connections")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--to", help=argparse.SUPPRESS)
    parser.add_argument("--upstream", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.upstream:
        uvloop.run(upstream.serve(options.upstream[0], int(options.upstream[1])))
    elif options.serve:
        places.be_gateway(options.serve, options.to)
    else:
        measure(options)


def measure(options: argparse.Namespace) -> None:
    if options.vllm:
        with real.vllm(options.vllm) as asked:
            keep(options, uvloop.run(compare(asked, options.rounds, options.requests, VLLM_LOADS)))
        return
    modes = [options.profile] if options.profile else ["on"] if options.peers else options.modes.split(",")
    with tempfile.TemporaryDirectory(prefix="sumika-bench-") as folder, ExitStack() as running:
        work = Path(folder)
        path, port, stats = str(work / "upstream.sock"), places.free_port(), work / "stats"
        running.enter_context(places.running(sys.executable, __file__, "--upstream", path, str(port)))
        places.until_ready(f"http://127.0.0.1:{port}/health")
        asked = [Place("direct", f"http://127.0.0.1:{port}", "-")]
        asked += [running.enter_context(places.sumika(work, mode, path, stats if options.profile else None)) for mode in modes]
        if options.profile:
            uvloop.run(loads.closed(asked[1], 32, options.requests))
            running.close()
            pstats.Stats(str(stats)).sort_stats("tottime").print_stats(45)
            return
        if options.peers:
            asked += [running.enter_context(peer(work, options.peers, port)) for peer in (places.litellm, places.vllm_router)]
        keep(options, uvloop.run(_all(asked, options)))


def keep(options: argparse.Namespace, told: dict[str, Any]) -> None:
    if options.json:
        options.json.write_text(json.dumps(told, indent=2) + "\n")


async def _all(asked: Sequence[Place], options: argparse.Namespace) -> dict[str, Any]:
    began = time.monotonic()
    told = await compare(asked, options.rounds, options.requests)
    if options.peers:
        told["at reading pace"] = await at_reading_pace(asked, min(3, options.rounds))
        told["knee"] = await knees(asked, min(3, options.rounds))
    print(f"{time.monotonic() - began:.0f} s")
    return told


if __name__ == "__main__":
    main()
