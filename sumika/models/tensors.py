"""What a safetensors file holds, read without torch: names, shapes, and whether every number is finite."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    data = np.memmap(file, mode="r", offset=8 + length, dtype=np.uint8)
    for name, entry in header.items():
        if name == "__metadata__" or entry["dtype"] not in _EXPONENT:
            continue
        width, exponent = _EXPONENT[entry["dtype"]]
        start, end = entry["data_offsets"]
        bits = data[start:end].view(width)
        if np.any((bits & width(exponent)) == width(exponent)):
            yield name
