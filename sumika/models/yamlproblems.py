"""What is wrong with a YAML that people edit: every problem with its place, its remedy, in English and Japanese."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError

from sumika.models.errors import SumikaError, quoted

Key = tuple[str | int, ...]


class Place(NamedTuple):
    """Where a key was given."""

    en: str
    ja: str

    @classmethod
    def line(cls, number: int) -> Place:
        return cls(f"line {number}", f"{number} 行目")


COMMAND_LINE = Place("from the command line", "コマンドラインで指定")


class Problem(NamedTuple):
    """One sentence in each language; what a library said is in English in both."""

    en: str
    ja: str

    def at(self, place: Place | None) -> Problem:
        return self if place is None else Problem(f"{place.en}: {self.en}", f"{place.ja}: {self.ja}")


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: its data, and where every key of it was given."""

    path: Path
    data: dict[str, Any]
    places: Mapping[Key, Place]

    def place(self, key: Key) -> Place | None:
        """Of the key itself, else of the nearest group around it."""
        return next((self.places[key[:n]] for n in range(len(key), 0, -1) if key[:n] in self.places), None)


def config_error(path: Path, problems: Sequence[Problem | str]) -> SumikaError:
    """`bad_config`, with all `problems`; a plain string stands in both languages."""
    both = [Problem(problem, problem) if isinstance(problem, str) else problem for problem in problems]
    return SumikaError(
        "bad_config",
        f"{path} can't be used ({len(both)} to mend):\n" + "\n".join(f"  {problem.en}" for problem in both),
        f"{path} は使えません(修正 {len(both)} 件):\n" + "\n".join(f"  {problem.ja}" for problem in both),
    )


def explained(kind: type[BaseModel], document: Document, error: ValidationError) -> SumikaError:
    """Every problem that pydantic found. The branches of a union fail one by one: they are told as one problem."""
    found: dict[tuple[Key, bool], list[Problem]] = {}
    names = {part for key, _ in _keys(kind, ()) for part in key}
    for one in error.errors():
        strange = one["type"] in ("missing", "extra_forbidden")
        key = one["loc"] if strange else _in_file(one["loc"], document.data, names)
        found.setdefault((key, strange), []).append(_said(kind, key, one))
    problems = []
    for (key, strange), said in found.items():
        en, ja = "; or: ".join(one.en for one in said), "、または ".join(one.ja for one in said)
        name = "" if strange or not key else f"{quoted(dotted(key))}: "
        problems.append(Problem(name + en, name + ja).at(document.place(key)))
    return config_error(document.path, problems)


def _in_file(loc: Key, data: Any, names: set[str]) -> Key:
    """`loc` without what pydantic adds to it: the names of a union's branches."""
    for n, part in enumerate(loc):
        inside = data.get(part) if isinstance(data, dict) else None
        if isinstance(part, str) and part not in names and inside is None:
            return loc[:n]
        data = data[part] if isinstance(data, list) and isinstance(part, int) and part < len(data) else inside
    return loc


def _said(kind: type[BaseModel], key: Key, error: Any) -> Problem:
    name, context, given = quoted(dotted(key)), error.get("ctx", {}), error.get("input")
    match error["type"]:
        case "extra_forbidden":
            near = suggestion(kind, key)
            return Problem(f"unknown key '{name}'{near.en}", f"「{name}」というキーはありません{near.ja}")
        case "missing":
            return Problem(f"'{name}' is missing; add it", f"「{name}」がありません。追加してください")
        case "refused":
            en, ja = context["en"], context["ja"]
        case _:
            en = error["msg"].removeprefix("Value error, ")
            ja = _JA[error["type"]].format(**context) if error["type"] in _JA else en
    if given is None or isinstance(given, dict | list):
        return Problem(en, ja)
    return Problem(f"{en} (given: {quoted(repr(given))})", f"{ja}(指定値: {quoted(repr(given))})")


_JA = {
    "int_type": "整数にしてください",
    "int_parsing": "整数にしてください",
    "int_from_float": "整数にしてください",
    "float_type": "数値にしてください",
    "float_parsing": "数値にしてください",
    "finite_number": "有限の数値にしてください",
    "bool_type": "true か false にしてください",
    "bool_parsing": "true か false にしてください",
    "string_type": "文字列にしてください",
    "path_type": "ファイルのパスにしてください",
    "list_type": "リストにしてください",
    "dict_type": "キーと値の組にしてください",
    "model_type": "キーと値の組にしてください",
    "model_attributes_type": "キーと値の組にしてください",
    "literal_error": "次のいずれかにしてください: {expected}",
    "greater_than": "{gt} より大きくしてください",
    "greater_than_equal": "{ge} 以上にしてください",
    "less_than": "{lt} より小さくしてください",
    "less_than_equal": "{le} 以下にしてください",
    "too_short": "{min_length} 件以上にしてください",
    "too_long": "{max_length} 件以下にしてください",
    "string_too_short": "{min_length} 文字以上にしてください",
    "string_too_long": "{max_length} 文字以下にしてください",
}


def suggestion(kind: type[BaseModel], loc: Key) -> Problem:
    """'; did you mean …?' with the nearest known key, looked for first in its own group and then in the others."""
    known = dict(_keys(kind, ()))
    unknown = str(loc[-1])
    group = tuple(part for part in loc[:-1] if isinstance(part, str))  # a place in a list is part of no key's name
    beside = [path for path in known if path[:-1] == group]
    # Another group's key must be all but spelt out: a faint likeness there misleads more than it helps.
    for paths, cutoff in ((beside, 0.6), (list(known), 0.85)):
        close = difflib.get_close_matches(unknown, [path[-1] for path in paths], n=1, cutoff=cutoff)
        if close:
            found = next(path for path in paths if path[-1] == close[0])
            what = f" {known[found]}" if known[found] else ""  # descriptions are in English alone
            return Problem(f"; did you mean '{dotted(found)}'?{what}", f"。「{dotted(found)}」のことですか?")
    names = ", ".join(path[-1] for path in beside)
    return Problem(f"; known here: {names}", f"。使えるキー: {names}") if beside else Problem("", "")


def _keys(kind: type[BaseModel], at: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    for name, field in kind.model_fields.items():
        key = (*at, field.alias or name)
        yield key, field.description or ""
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from _keys(part, key)


def dotted(key: Key) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")
