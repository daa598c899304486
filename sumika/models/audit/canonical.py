"""Canonical JSON: one value, one spelling, so that a hash over it means something.

The part of RFC 8785 (JCS) that needs no number formatting: objects with ASCII keys in order, lists, strings, whole
numbers that a double holds exactly, true, false, null. UTF-8, no white space. For these the bytes are those of any JCS
library; floats, which JCS spells as ECMAScript does, are refused.
"""

from __future__ import annotations

import json
from typing import Any

_EXACT = 2**53 - 1
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))


def dump(value: Any) -> bytes:
    """Raises ValueError for anything outside the subset above."""
    _check(value)
    return _ENCODER.encode(value).encode()  # a lone surrogate is a UnicodeEncodeError, which is a ValueError


def load(data: bytes | str) -> Any:
    """A value from its canonical spelling.

    Raises:
        ValueError: what is no JSON, or not spelled canonically.
    """
    text = data.encode() if isinstance(data, str) else data
    try:
        value = json.loads(text)
        if dump(value) == text:
            return value
    except RecursionError:
        pass
    raise ValueError("not canonical JSON")


def _check(value: Any) -> None:
    kind = type(value)
    if kind is dict:
        for key, inner in value.items():
            if type(key) is not str or not key.isascii():
                raise ValueError("keys are ASCII strings")
            if type(inner) is not str:  # most are, and this runs for every row
                _check(inner)
    elif kind is list or kind is tuple:
        for inner in value:
            _check(inner)
    elif kind is int:
        if not -_EXACT <= value <= _EXACT:
            raise ValueError("whole numbers lie within 2**53")
    elif kind is not str and kind is not bool and value is not None:
        raise ValueError(f"{kind.__name__} has no canonical spelling here")
