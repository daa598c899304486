"""A tokenizer's files, read at a bounded cost: most of their bytes are vocabulary, which is passed over and never built in memory."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sumika.models.errors import SumikaError, quoted

# The largest that we know, Gemma's, has 33 MB.
MOST_BYTES = 64 * 2**20
# Of one field: Gemma's 6,249 added tokens take 1.2 MB.
_MOST_FIELD_BYTES = 8 * 2**20
# Brackets, and what separates fields. Gemma's has a million, one for each merge of two symbols.
_MOST_SIGNS = 8_000_000
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_OF_OBJECT = re.compile(_STRING + rb"|[\[\]{}:,]", re.DOTALL)
_TO_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|' + _STRING + rb")*+[\[\]{}]", re.DOTALL)
_CONTROL, _UNKNOWN, _USER_DEFINED = 3, 2, 4
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def fields(file: Path, wanted: Callable[[str], bool]) -> dict[str, Any]:
    """The `wanted` fields of the JSON object in `file`; none where there is no such file or it is no such object.

    Raises:
        SumikaError: `bad_model`, for a file or a field of it that is too large.
    """
    found: dict[str, Any] = {}
    for name, value in _spans(_bytes(file), file.name):
        if not wanted(name):
            continue
        if len(value) > _MOST_FIELD_BYTES:
            raise _too_large(f"{name} in {file.name}", _MOST_FIELD_BYTES)
        try:
            found[name] = json.loads(value)
        except (ValueError, RecursionError):
            return {}  # whether these files are good is for the engine to say; here they only tell of tokens
    return found


def text(file: Path) -> str:
    """What stands in `file`, if there is one.

    Raises:
        SumikaError: `bad_model`, for a file that is too large.
    """
    return _bytes(file).decode(errors="replace")


def pieces(file: Path) -> Iterator[tuple[str, bool]]:
    """The symbols of SentencePiece's `tokenizer.model` that are no ordinary text, and whether they are control symbols.

    It is protobuf: `ModelProto.pieces` is field 1, and of a piece 1 is its text and 3 its type. The library would run C++ over
    a file that nobody has looked at, and is there only where an engine is.

    Raises:
        SumikaError: `bad_model`, for a file that is too large.
    """
    data = _bytes(file)
    try:
        for number, value in _messages(data, 0, len(data)):
            if number == 1 and isinstance(value, slice):
                piece = dict(_messages(data, value.start, value.stop))
                text, kind = piece.get(1), piece.get(3)
                if isinstance(text, slice) and kind in (_CONTROL, _UNKNOWN, _USER_DEFINED):
                    yield data[text].decode(), kind != _USER_DEFINED
    except (ValueError, IndexError):
        return


def _spans(data: bytes, file: str) -> Iterator[tuple[str, bytes]]:
    """Each field of the JSON object: its name and its value, as they are written."""
    depth, name, start, at, signs = 0, b"", -1, 0, 0
    while found := _TO_BRACKET.match(data, at) if depth > 1 else _OF_OBJECT.search(data, at):
        at, signs = found.end(), signs + 1
        if signs > _MOST_SIGNS:
            raise bad_model(f"{quoted(file)} has more parts than any tokenizer's", f"{quoted(file)} の要素が多すぎます")
        sign = data[at - 1 : at]
        if sign in (b"[", b"{"):
            depth += 1
        elif sign in (b"]", b"}"):
            depth -= 1
        elif depth == 1 and sign == b":":
            start = at
        elif depth == 1 and sign == b'"' and start < 0:
            name = found[0]
        if start >= 0 and ((depth == 1 and sign == b",") or depth == 0):
            yield _text(name), data[start : at - 1]
            start = -1
        if depth <= 0:
            return


def _text(string: bytes) -> str:
    try:
        return str(json.loads(string))
    except ValueError:
        return ""


def _messages(data: bytes, at: int, end: int) -> Iterator[tuple[int, int | slice]]:
    """The fields of a protobuf message, by number."""
    while at < end:
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _BYTES:
            length, at = _varint(data, at)
            if at + length > end:
                raise ValueError
            yield key >> 3, slice(at, at + length)
            at += length
        elif kind == _VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError


def _bytes(file: Path) -> bytes:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise _too_large(file.name, MOST_BYTES)
        return file.read_bytes()
    except OSError:
        return b""


def _too_large(what: str, most: int) -> SumikaError:
    shown, mib = quoted(what), most // 2**20
    return bad_model(f"{shown} has more than {mib} MiB, which no tokenizer needs", f"{shown} が {mib} MiB を超えています")


def bad_model(en: str, ja: str) -> SumikaError:
    return SumikaError(
        "bad_model",
        f"The folder is not a model that can be served: {en}. Copy the model from its source again and import it again.",
        f"このフォルダーは配備できるモデルではありません: {ja}。モデルを入手元からコピーし直してから取り込み直してください。",
    )
