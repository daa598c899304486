"""What is wrong with a request, in one sentence that names the field."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticCustomError

from sumika.models.errors import SumikaError, quoted

# How pydantic names a member of a union in a problem's place: a type, or a model of ours.
_TAG = re.compile(r"str|int|float|bool|constrained-\w+|.*\[.*|[A-Z]\w*")
_OURS = "refused"


def refused(code: str, en: str, ja: str) -> PydanticCustomError:
    """For a validator to raise: the request's own field is at fault, and this is what to tell."""
    return PydanticCustomError(_OURS, "{en}", {"code": code, "en": en, "ja": ja})


def invalid(problems: Sequence[Mapping[str, Any]], kind: type[BaseModel] | None = None) -> SumikaError:
    """What pydantic found, the most telling of it in words: of several readings of one value the one that went furthest."""
    first = max(problems, key=lambda problem: (problem["type"] == _OURS, len(problem["loc"])))
    param = _place(first)
    more = f" ({len(problems)} problems in all)" if len(problems) > 1 else ""
    if first["type"] == _OURS:
        told = first["ctx"]
        return SumikaError(told["code"], f"{param or 'The body'}: {told['en']}", f"{param or '本文'}: {told['ja']}", param=param)
    if first["type"] == "extra_forbidden":
        meant = _meant(str(first["loc"][-1]), kind)
        hint, hint_ja = (f"; did you mean '{meant}'?", f"(「{meant}」ではありませんか)") if meant else (f"{more}.", f"{more}。")
        return SumikaError("unknown_field", f"{param}: unknown field{hint}", f"{param}: 未対応の項目です{hint_ja}", param=param)
    reason = quoted(first["msg"])
    return SumikaError(
        "invalid_request", f"{param or 'The body'}: {reason}{more}.", f"{param or '本文'}: {reason}{more}。", param=param
    )


def _place(problem: Mapping[str, Any]) -> str | None:
    *path, last = problem["loc"] or (None,)
    if last is None:
        return None
    named = problem["type"] == "extra_forbidden" or isinstance(last, int) or not _TAG.fullmatch(last)
    kept = [str(part) for part in path if isinstance(part, int) or not _TAG.fullmatch(part)] + ([str(last)] if named else [])
    return quoted(".".join(kept)) or None


def _meant(name: str, kind: type[BaseModel] | None) -> str | None:
    close = difflib.get_close_matches(name[:64], _names(kind), n=1, cutoff=0.75) if kind is not None else []
    return close[0] if close else None


@cache
def _names(kind: type[BaseModel]) -> tuple[str, ...]:
    """Every field that a request of this kind may have, wherever in it."""
    return tuple(sorted(set(_properties(kind.model_json_schema()))))


def _properties(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
    for value in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _properties(value)
