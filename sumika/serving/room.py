"""Is there room for another engine? Planned before one starts, measured once it runs.

Two views must both allow it: our own plan (the budget less what our engines were promised), and what is really free
(others may use it too) less what engines that are still starting will take.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from sumika.models.errors import SumikaError
from sumika.models.registry import Version
from sumika.models.settings import EngineSettings
from sumika.serving.memory import Meter, Pool
from sumika.serving.process import ProcessId

GIB = 2**30
# The runtime, activations, CUDA graphs. On a CPU: two Python processes with torch.
_RUNTIME = 2 * GIB
# An engine is given half of the budget, so that a new version can start beside it, where half holds this many requests
# over the whole context at once; else all of it.
_REQUESTS_IN_HALF = 8


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes: `least` to start and answer one request over the whole context; `planned` what the engine is given."""

    least: int
    planned: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where an engine runs, and the share of that pool's memory it may take. `free`: what engines might take there now."""

    pool: Pool
    planned: int
    free: int

    @property
    def share(self) -> float:
        return self.planned / self.pool.total


@dataclass(frozen=True, slots=True)
class _Claim:
    gpu: int | None
    size: int
    settled: bool


class Room:
    """What one supervisor's engines were promised, and what they take."""

    def __init__(self, settings: EngineSettings, meter: Meter) -> None:
        self._settings = settings
        self._meter = meter
        self._claims: dict[str, _Claim] = {}

    def claim(self, engine_id: str, base: Version, folder: Path) -> Place:
        """Take room for an engine that is about to start or wake, on the pool with the most left.

        Raises:
            SumikaError: `no_room`, with the numbers.
        """
        self.release(engine_id)
        place = self.find(base, folder)
        if isinstance(place, SumikaError):
            raise place
        self._claims[engine_id] = _Claim(place.pool.gpu, place.planned, settled=False)
        return place

    def lacking(self, base: Version, folder: Path, *, without: Collection[str] = ()) -> SumikaError | None:
        """Why an engine for `base` can't start now; or could not, if the engines `without` were gone. None: it can."""
        found = self.find(base, folder, without)
        return found if isinstance(found, SumikaError) else None

    def adopt(self, engine_id: str, gpu: int | None, size: int | None) -> None:
        """Remember what an engine that ran before us takes, as its row tells."""
        self._claims[engine_id] = _Claim(gpu, size or 0, settled=True)

    def settle(self, engine_id: str, engine: ProcessId) -> tuple[int | None, int]:
        """Measure an engine that is ready; the pool's GPU, and the bytes it keeps. A plan is never lowered: a CPU
        engine touches its cache only as requests come."""
        claim = self._claims[engine_id]
        pool = self._pool(claim.gpu)
        taken = self._meter.taken(pool, engine) if pool else None
        self._claims[engine_id] = _Claim(claim.gpu, max(claim.size, taken or 0), settled=True)
        return claim.gpu, self._claims[engine_id].size

    def measured_free(self, engine_id: str) -> int:
        """Bytes free now in the pool where an engine runs."""
        pool = self._pool(self._claims[engine_id].gpu)
        return pool.free if pool else 0

    def host_free(self) -> int:
        """Bytes of main memory to be had."""
        return self._meter.host_free()

    def promised(self, engine_id: str) -> int:
        return self._claims[engine_id].size

    def keep(self, engine_id: str, size: int) -> None:
        """An engine now takes `size` bytes: it went to sleep."""
        self._claims[engine_id] = replace(self._claims[engine_id], size=size, settled=True)

    def release(self, engine_id: str) -> None:
        self._claims.pop(engine_id, None)

    def find(self, base: Version, folder: Path, without: Collection[str] = ()) -> Place | SumikaError:
        """Where an engine for `base` could start now, or if the engines `without` were gone; why nowhere."""
        offers = [(self._free(pool, without), self._need(base, folder, pool), pool) for pool in self._meter.pools()]
        offers.sort(key=lambda offer: offer[0], reverse=True)
        for free, need, pool in offers:
            if need.least <= need.planned <= free:
                return Place(pool, need.planned, free)
        return _no_room(base, *offers[0])

    def _free(self, pool: Pool, without: Collection[str]) -> int:
        here = {name: claim for name, claim in self._claims.items() if claim.gpu == pool.gpu}
        staying = [claim for name, claim in here.items() if name not in without]
        going = sum(claim.size for name, claim in here.items() if name in without and claim.settled)
        coming = sum(claim.size for claim in staying if not claim.settled)
        return max(0, min(self._budget(pool) - sum(claim.size for claim in staying), pool.free - coming + going))

    def _need(self, base: Version, folder: Path, pool: Pool) -> Need:
        weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        if pool.gpu is None:
            size = weights + self._settings.cpu_kv_cache_gib * GIB + _RUNTIME
            return Need(size, size)
        one_request = kv_bytes_per_token(folder) * int(base.meta.get("serve", {}).get("max_model_len", 8192))
        least, budget = weights + one_request + _RUNTIME, self._budget(pool)
        if self._settings.gpu_memory_gib is not None:
            return Need(least, int(self._settings.gpu_memory_gib * GIB))
        half = weights + _REQUESTS_IN_HALF * one_request + _RUNTIME <= budget // 2
        return Need(least, budget // 2 if half else budget)

    def _budget(self, pool: Pool) -> int:
        if pool.gpu is None:
            return int(self._settings.memory_gib * GIB) if self._settings.memory_gib is not None else pool.total
        return int(self._settings.gpu_memory_utilization * pool.total)

    def _pool(self, gpu: int | None) -> Pool | None:
        return next((pool for pool in self._meter.pools() if pool.gpu == gpu), None)


def kv_bytes_per_token(folder: Path) -> int:
    """Keys and values of one token in 16 bits, from the model's config.json; an upper bound where layers slide.

    2 (K, V) * layers * KV heads * head size * 2 bytes.
    """
    config = json.loads((folder / "config.json").read_bytes())
    text = config.get("text_config", config)
    heads = text.get("num_attention_heads") or 1
    size = text.get("head_dim") or text.get("hidden_size", 0) // heads
    return int(4 * text.get("num_hidden_layers", 0) * (text.get("num_key_value_heads") or heads) * size)


def _no_room(base: Version, free: int, need: Need, pool: Pool) -> SumikaError:
    planned = max(need.planned, need.least)
    return SumikaError(
        "no_room",
        f"There is no room for an engine with {base.ref}: it takes {_gib(planned)} of {pool.name}, and {_gib(free)} of {_gib(pool.total)} "
        "are left. Lead aliases away from a base, scale one down, or give engines less under 'engine:' in configs/sumika.yaml.",
        f"{base.ref} のエンジンを起動するメモリーが足りません({pool.name}: 必要量 {_gib(planned)}、空き {_gib(free)}、全体 {_gib(pool.total)})。"
        "使わないベースのエイリアスを移す、エンジン数を減らす、または configs/sumika.yaml の engine で割り当てを減らしてください。",
        status=409,
    )


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
