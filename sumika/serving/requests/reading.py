"""A request's body read as strict JSON, and as the request it claims to be."""

from __future__ import annotations

import json
import re
import sys
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from sumika.models.errors import SumikaError, quoted
from sumika.serving.requests.problems import invalid

MAX_DEPTH = 32
# Of all objects together, and characters of one: pydantic tells what is wrong with each, and a worker answers nobody meanwhile.
_MAX_KEYS = 50_000
_MAX_KEY_LENGTH = 1_024
_TOO_MANY = f"it has more than {_MAX_KEYS:,} keys and texts"
# Fields tell their own bounds, by name; where anything may stand an engine shall get no number that it might choke on: nothing
# beyond 128 bits, no doubles that are infinite or subnormal.
_INTEGERS = range(-(2**127), 2**127)
_Kind = TypeVar("_Kind", bound=BaseModel)


def parse(kind: type[_Kind], body: bytes) -> _Kind:
    """Read one request.

    Raises:
        SumikaError: `invalid_json`; `invalid_request`, `unknown_field` and the codes of `problems.refused`, naming the
            field (`param`) and what is wrong with it.
    """
    data = read_json(body)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise invalid(error.errors(include_url=False, include_input=False), kind) from None


def read_json(body: bytes) -> Any:
    """Raises SumikaError `invalid_json`."""
    try:
        # Text first: json.loads would guess UTF-16 and 32 from bytes.
        data = _DECODER.decode(body.decode("utf-8"))
        if _check(data, MAX_DEPTH) > _MAX_KEYS:
            raise _Refused(_TOO_MANY)
        return data
    except (ValueError, RecursionError) as error:
        reason = quoted(str(error)) if isinstance(error, _Refused) else "it is not JSON in UTF-8"
        raise SumikaError(
            "invalid_json",
            f"The request body can't be read: {reason}.",
            f"リクエスト本文を読み取れません: {reason}。",
        ) from None


class _Refused(ValueError):
    """JSON that a lenient reader would take, with our own words for why we do not."""


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise _Refused("a key is given twice in one object")
    return result


def _no_constant(name: str) -> None:
    raise _Refused(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_no_repeats, parse_constant=_no_constant)
SURROGATE = re.compile("[\ud800-\udfff]")


def _check(value: Any, depth: int) -> int:
    """How many keys and texts `value` has: each text is looked through for control tokens. Bounds the depth, the length of a key and the size of numbers, and refuses
    lone surrogates, which would fail later and elsewhere."""
    if depth == 0:
        raise _Refused(f"it is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, str):
        _check_text(value)
        return 1
    elif isinstance(value, list):
        return sum(_check(item, depth - 1) for item in value)
    elif isinstance(value, dict):
        _check_keys(value)
        return len(value) + sum(_check(item, depth - 1) for item in value.values())
    elif value is not None:
        _check_number(value)
    return 0


def _check_text(text: str) -> None:
    if not text.isascii() and SURROGATE.search(text):
        raise _Refused("a text holds half of a surrogate pair")


def _check_keys(value: dict[str, Any]) -> None:
    if len(value) > _MAX_KEYS:
        raise _Refused(_TOO_MANY)
    for key in value:
        _check_text(key)
        if len(key) > _MAX_KEY_LENGTH:
            raise _Refused(f"a key is longer than {_MAX_KEY_LENGTH:,} characters")


def _check_number(value: int | float) -> None:
    if isinstance(value, float):
        if value and not sys.float_info.min <= abs(value) <= sys.float_info.max:
            raise _Refused("a number is too great or too small")
    elif value not in _INTEGERS:
        raise _Refused("an integer has more than 128 bits")
