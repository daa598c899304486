"""What engines take of the memory there is, and what is left of it."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal, Protocol

import psutil
import pynvml

from sumika.models import pools
from sumika.models.pools import Pool
from sumika.serving.process import ProcessId

__all__ = ["Device", "GpuMemory", "MainMemory", "Meter", "Pool", "meter"]

Device = Literal["cpu", "cuda"]


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
    """The machine's memory, or what the container may use of it."""

    def pools(self) -> list[Pool]:
        return [pools.main_memory()]

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
        self._visible = visible

    def pools(self) -> list[Pool]:
        return pools.gpus(self._visible)

    def host_free(self) -> int:
        return MainMemory().host_free()

    def taken(self, pool: Pool, engine: ProcessId) -> int | None:
        """None in a container of its own process numbers, which NVML does not know."""
        ours = {process.pid for process in engine.session_members()}
        with pools.nvml():
            running = pynvml.nvmlDeviceGetComputeRunningProcesses(pynvml.nvmlDeviceGetHandleByIndex(pool.gpu))
        told = [int(one.usedGpuMemory) for one in running if one.pid in ours and one.usedGpuMemory]
        return sum(told) if told else None


def meter(device: Device) -> Meter:
    return GpuMemory() if device == "cuda" else MainMemory()
