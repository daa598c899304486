"""What a safetensors file holds, read without torch: names, shapes, and whether its numbers can be weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from sumika.models.errors import SumikaError

# The bits of the exponent, as an unsigned integer of the same width; all ones means infinity or not a number.
_EXPONENT = {
    "F64": (np.uint64, 0x7FF << 52),
    "F32": (np.uint32, 0xFF << 23),
    "F16": (np.uint16, 0x1F << 10),
    "BF16": (np.uint16, 0xFF << 7),
}


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    shape: tuple[int, ...]


def list_tensors(file: Path) -> list[Tensor]:
    """The tensors of one file; the library checks header length, offsets, holes and overlaps.

    Raises:
        SumikaError: `bad_weights`, when the file is no intact safetensors file.
    """
    try:
        with safe_open(file, framework="numpy") as opened:
            return [Tensor(name, tuple(opened.get_slice(name).get_shape())) for name in opened.keys()]
    except (SafetensorError, OSError) as error:
        raise SumikaError(
            "bad_weights",
            f"{file.name} is not an intact safetensors file ({error}). Copy it again from where it came.",
            f"{file.name} は正常な safetensors ファイルではありません({error})。元の場所からコピーし直してください。",
        ) from None


def non_finite(file: Path) -> Iterator[str]:
    """Names of the tensors in `file` (already checked by `list_tensors`) that hold an infinity or a NaN."""
    for name, dtype, data in _floats(file):
        width, exponent = _EXPONENT[dtype]
        bits = data.view(width)
        if np.any((bits & width(exponent)) == width(exponent)):
            yield name


def norms(file: Path) -> Iterator[tuple[str, float]]:
    """Each tensor of `file` with its Frobenius norm; infinity where that is no double (its square overflows)."""
    for name, dtype, data in _floats(file):
        if dtype == "BF16":  # numpy has none: the upper half of a float32
            values = (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            values = data.view({"F64": np.float64, "F32": np.float32, "F16": np.float16}[dtype])
        with np.errstate(over="ignore"):
            yield name, float(np.sqrt(np.sum(np.square(values, dtype=np.float64))))


def _floats(file: Path) -> Iterator[tuple[str, str, np.ndarray[Any, np.dtype[np.uint8]]]]:
    """Name, dtype and bytes of every tensor of plain floating-point numbers."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    data = np.memmap(file, mode="r", offset=8 + length, dtype=np.uint8)
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] in _EXPONENT:
            start, end = entry["data_offsets"]
            yield name, entry["dtype"], data[start:end]
