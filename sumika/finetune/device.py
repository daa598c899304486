"""What this machine can train on, found without torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import pynvml

from sumika.models import pools
from sumika.models.pools import Pool


@dataclass(frozen=True, slots=True)
class Device:
    """`count` of them; `free` and `total` bytes are those of one, the one with the least free of those a job takes."""

    kind: Literal["cpu", "cuda"]
    count: int
    free: int
    total: int

    @classmethod
    def here(cls, gpus: int = 1) -> Device:
        """The GPUs where torch is built for them and a driver answers, else main memory. `gpus`: how many a job takes,
        those with the most free."""
        found = sorted(_gpus(), key=lambda pool: pool.free, reverse=True)
        if found:
            least = found[:gpus][-1]
            return cls("cuda", len(found), least.free, least.total)
        memory = pools.main_memory()
        return cls("cpu", 1, memory.free, memory.total)


def each() -> list[Pool]:
    """Every GPU that torch could train on; main memory where there is none."""
    return _gpus() or [pools.main_memory()]


def _gpus() -> list[Pool]:
    try:
        if re.search(r"\+(cpu|xpu|rocm)", version("torch")):
            return []
        return pools.gpus()
    except (PackageNotFoundError, pynvml.NVMLError):
        return []
