"""How much memory there is for engines, read from those who know: NVML for GPUs, the kernel for main memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import psutil
import pynvml

from sumika.serving.process import ProcessId

Device = Literal["cpu", "cuda"]

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Pool:
    """Memory that engines share: one GPU's, by its NVML index and UUID, or the main memory (`gpu` None). Bytes."""

    gpu: int | None
    uuid: str
    total: int
    free: int

    @property
    def name(self) -> str:
        return "main memory" if self.gpu is None else f"GPU {self.gpu}"


class Meter(Protocol):
    """Measures pools, and what one engine's processes take of one."""

    def pools(self) -> list[Pool]: ...

    def host_free(self) -> int:
        """Bytes of main memory to be had."""
        ...

    def taken(self, pool: Pool, engine: ProcessId) -> int | None:
        """Bytes; None where it can't be told."""
        ...


class MainMemory:
    """The machine's memory, or what the container may use of it (cgroup v2)."""

    def pools(self) -> list[Pool]:
        machine = psutil.virtual_memory()
        limit, used = _cgroup("memory.max"), _cgroup("memory.current")
        if limit is None or used is None or limit >= machine.total:
            return [Pool(None, "", machine.total, machine.available)]
        # Pages of files are counted as used but given back when asked for.
        files = _cgroup_stat("inactive_file") + _cgroup_stat("active_file")
        return [Pool(None, "", limit, max(0, min(machine.available, limit - used + files)))]

    def host_free(self) -> int:
        return self.pools()[0].free

    def taken(self, pool: Pool, engine: ProcessId) -> int | None:  # noqa: ARG002 - there is one pool
        total = 0
        for process in engine.session_members():
            with suppress(psutil.Error):
                total += process.memory_full_info().pss
        return total


class GpuMemory:
    """NVIDIA GPUs, those that `CUDA_VISIBLE_DEVICES` leaves us (indexes or UUIDs)."""

    def __init__(self, visible: str | None = None) -> None:
        self._visible = os.environ.get("CUDA_VISIBLE_DEVICES") if visible is None else visible

    def pools(self) -> list[Pool]:
        with _nvml():
            found = [_pool(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return found if self._visible is None else [pool for pool in found if self._is_ours(pool)]

    def host_free(self) -> int:
        return MainMemory().host_free()

    def taken(self, pool: Pool, engine: ProcessId) -> int | None:
        """None in a container of its own process numbers, which NVML does not know."""
        ours = {process.pid for process in engine.session_members()}
        with _nvml():
            running = pynvml.nvmlDeviceGetComputeRunningProcesses(pynvml.nvmlDeviceGetHandleByIndex(pool.gpu))
        told = [int(one.usedGpuMemory) for one in running if one.pid in ours and one.usedGpuMemory]
        return sum(told) if told else None

    def _is_ours(self, pool: Pool) -> bool:
        named = [name.strip() for name in (self._visible or "").split(",") if name.strip()]
        return str(pool.gpu) in named or any(pool.uuid.startswith(name) for name in named if name.startswith("GPU-"))


def meter(device: Device) -> Meter:
    return GpuMemory() if device == "cuda" else MainMemory()


def _pool(index: int) -> Pool:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return Pool(index, str(pynvml.nvmlDeviceGetUUID(handle)), int(memory.total), int(memory.free))


@contextmanager
def _nvml() -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


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
