"""What this machine can train on, found without torch: GPUs by NVIDIA's library, main memory by the system."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import psutil
import pynvml


@dataclass(frozen=True, slots=True)
class Device:
    """`count` of them; `free` and `total` bytes are those of one, the one with the least free."""

    kind: Literal["cpu", "cuda"]
    count: int
    free: int
    total: int

    @classmethod
    def here(cls, gpus: int = 1) -> Device:
        """The GPUs where torch is built for them and a driver answers, else main memory. `gpus`: how many a job wants,
        which are those with the most free."""
        found = sorted(_gpus(), reverse=True) if _built_for_cuda() else []
        if found:
            free, total = found[: max(1, gpus)][-1]
            return cls("cuda", len(found), free, total)
        memory = psutil.virtual_memory()
        return cls("cpu", 1, memory.available, memory.total)


def each() -> list[tuple[int | None, int]]:
    """Every GPU's number and free bytes; None and those of main memory where there is none."""
    found = _gpus() if _built_for_cuda() else []
    return [(number, free) for number, (free, _) in enumerate(found)] or [(None, psutil.virtual_memory().available)]


def _built_for_cuda() -> bool:
    try:
        return re.search(r"\+(cpu|xpu|rocm)", version("torch")) is None
    except PackageNotFoundError:
        return False


def _gpus() -> list[tuple[int, int]]:
    """Free and total bytes of each."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        memories = [pynvml.nvmlDeviceGetMemoryInfo(handle) for handle in handles]
        return [(int(memory.free), int(memory.total)) for memory in memories]
    finally:
        pynvml.nvmlShutdown()
