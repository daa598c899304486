"""How many adapters an engine holds at once, chosen from memory where the settings do not say.

vLLM keeps adapters in two places. `max_loras` slots lie on the device: stacked buffers over all wrapped layers, laid out at
start at the full `max_lora_rank` whatever the adapters' own (`vllm/lora/layers/base_linear.py`, `create_lora_weights`).
`max_cpu_loras` adapters lie in main memory; it forgets the least recently used and reads it from disk again when asked
(`vllm/lora/worker_manager.py`, `LRUCacheWorkerLoRAManager`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sumika.models.settings import EngineSettings

# More slots make every batch with adapters dearer, used or not; adapters beyond them wait for the next batch.
_MOST_ON_DEVICE = 8
_MOST_IN_MEMORY = 256
_DEVICE_SHARE = 0.05
_MEMORY_SHARE = 0.10


@dataclass(frozen=True, slots=True)
class Slots:
    """Adapters that one batch may mix, and adapters kept in main memory."""

    max_loras: int
    max_cpu_loras: int


def slot_bytes(matrices: Iterable[tuple[int, ...]], rank: int, number_bytes: int = 2) -> int:
    """Bytes of one adapter of `rank` on every weight matrix [out, in] of a base: rank x in for A, out x rank for B.

    The embedding and the head are counted though only some of vLLM's models adapt them: rather too much than too little.
    """
    return sum(rank * sum(shape) for shape in matrices) * number_bytes


def choose(settings: EngineSettings, one_slot: int, device_bytes: int, memory_bytes: int) -> Slots:
    """What the settings say; for what they leave open, slots of `one_slot` bytes in a twentieth of the device's memory
    (1 to 8) and a tenth of main memory (up to 256). vLLM wants `max_cpu_loras` to be no less than `max_loras`."""
    in_memory = settings.max_cpu_loras or _fitting(memory_bytes * _MEMORY_SHARE, one_slot, _MOST_IN_MEMORY)
    most = min(_MOST_ON_DEVICE, settings.max_cpu_loras or _MOST_ON_DEVICE)
    on_device = settings.max_loras or _fitting(device_bytes * _DEVICE_SHARE, one_slot, most)
    return Slots(on_device, max(in_memory, on_device))


def _fitting(room: float, one_slot: int, most: int) -> int:
    return max(1, min(most, int(room // max(1, one_slot))))
