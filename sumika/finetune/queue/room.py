"""Where a job could train, and how much memory is free there beside what serves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sumika.finetune import device


@dataclass(frozen=True, slots=True)
class Free:
    """Bytes free on one GPU, or in main memory where `gpu` is None."""

    gpu: int | None
    bytes: int


def here() -> Sequence[Free]:
    """Each GPU of this machine; main memory where it has none."""
    return [Free(gpu, free) for gpu, free in device.each()]
