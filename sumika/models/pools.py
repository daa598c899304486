"""How much memory there is, read from those who know: NVML for GPUs, the kernel for main memory. Serving and training share it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pynvml

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Pool:
    """Memory that processes share: one GPU's, by its NVML index and UUID, or the main memory (`gpu` None). Bytes."""

    gpu: int | None
    uuid: str
    total: int
    free: int

    @property
    def name(self) -> str:
        return "main memory" if self.gpu is None else f"GPU {self.gpu}"


def main_memory() -> Pool:
    """The machine's, or what the container may use of it (cgroup v2)."""
    machine = psutil.virtual_memory()
    limit, used = _cgroup("memory.max"), _cgroup("memory.current")
    if limit is None or used is None or limit >= machine.total:
        return Pool(None, "", machine.total, machine.available)
    # Pages of files are counted as used but given back when asked for.
    files = _cgroup_stat("inactive_file") + _cgroup_stat("active_file")
    return Pool(None, "", limit, max(0, min(machine.available, limit - used + files)))


def gpus(visible: str | None = None) -> list[Pool]:
    """NVIDIA GPUs, those that `visible` leaves us, or else `CUDA_VISIBLE_DEVICES` (indexes or UUIDs).

    Raises:
        pynvml.NVMLError: there is no driver.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") if visible is None else visible
    with nvml():
        found = [_pool(index) for index in range(pynvml.nvmlDeviceGetCount())]
    return found if visible is None else [pool for pool in found if _is_named(pool, visible)]


@contextmanager
def nvml() -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _is_named(pool: Pool, visible: str) -> bool:
    named = [name.strip() for name in visible.split(",") if name.strip()]
    return str(pool.gpu) in named or any(pool.uuid.startswith(name) for name in named if name.startswith("GPU-"))


def _pool(index: int) -> Pool:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return Pool(index, str(pynvml.nvmlDeviceGetUUID(handle)), int(memory.total), int(memory.free))


def _cgroup(name: str) -> int | None:
    try:
        return int((_CGROUP / name).read_text())
    except (OSError, ValueError):  # no cgroup v2, or "max": no limit
        return None


def _cgroup_stat(name: str) -> int:
    with suppress(OSError, ValueError):
        for line in (_CGROUP / "memory.stat").read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    return 0
