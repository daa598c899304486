"""How glibc hands out memory to a training on a CPU."""

from __future__ import annotations

import ctypes

# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Have this process keep what it frees. Large tensors are otherwise mapped anew and zeroed by the kernel each time, at
    every step the same hundreds of MB: a quarter of a CPU step's time (docs/performance.md). Nothing where there is no glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)
