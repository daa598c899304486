"""YAML that people edit: read strictly, checked against a pydantic model, every error told at once with its line."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from sumika.models.errors import SumikaError, quoted

Key = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain scalars only: `NO` is text, `12:30:45` is text, `0o17` is text (hostile to typed fields, not silent)."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:null|~|)$"), ["n", "~", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: its data and the line (from 1) of every key."""

    path: Path
    data: dict[str, Any]
    lines: Mapping[Key, int]


def config_error(path: Path, problems: list[str]) -> SumikaError:
    body = "\n".join(f"  {problem}" for problem in problems)
    return SumikaError(
        "bad_config",
        f"{path} can't be used ({len(problems)} to mend):\n{body}",
        f"{path} は使えません(修正 {len(problems)} 件):\n{body}",
    )


def read(path: Path) -> Document:
    """Parse one file.

    Raises:
        SumikaError: `bad_config`, when it is missing, not UTF-8, not YAML, repeats a key or is no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise config_error(path, ["the file does not exist; check the path"]) from None
    except UnicodeDecodeError as error:
        raise config_error(path, [f"byte {error.start} is not UTF-8; save the file as UTF-8"]) from None
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise config_error(path, ["the file must be a mapping of keys to values"])
        lines: dict[Key, int] = {}
        repeats = list(_index(node, (), lines))
        if repeats:
            raise config_error(path, repeats)
        data = loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise config_error(path, [f"{where}{getattr(error, 'problem', None) or 'not YAML'}"]) from None
    finally:
        loader.dispose()
    return Document(path, data, lines)


def _index(node: yaml.Node, at: Key, lines: dict[Key, int]) -> Iterator[str]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key_node, value in node.value:
            key = (*at, key_node.value)
            line = key_node.start_mark.line + 1
            if key_node.value in seen:
                yield f"line {line}: '{_dotted(key)}' is given twice"
            seen.add(key_node.value)
            lines[key] = line
            yield from _index(value, key, lines)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            lines[(*at, i)] = value.start_mark.line + 1
            yield from _index(value, (*at, i), lines)


def load(kind: type[Model], path: Path, overrides: list[str] | None = None) -> Model:
    """Read `path`, lay `overrides` (`group.key=value`) over it and check the whole against `kind`.

    Raises:
        SumikaError: `bad_config`, naming every problem with its line and, for an unknown key, the nearest known one.
    """
    document = read(path)
    for override in overrides or []:
        _override(document, override)
    return check(kind, document)


def check(kind: type[Model], document: Document) -> Model:
    try:
        # As JSON: strict there means no "yes" for true and no "1_000" for 1000, but a path or tuple may still be text or list.
        return kind.model_validate_json(json.dumps(document.data), strict=True)
    except ValidationError as error:
        raise explained(kind, document, error) from None


def explained(kind: type[BaseModel], document: Document, error: ValidationError) -> SumikaError:
    """Every problem pydantic found, each with its line and its remedy."""
    problems = [_explain(kind, document, e["loc"], e["type"], e["msg"], e.get("input")) for e in error.errors()]
    return config_error(document.path, problems)


def _override(document: Document, text: str) -> None:
    dotted, equals, value = text.partition("=")
    if not equals or not dotted:
        raise config_error(document.path, [f"'{quoted(text)}' is no override; write group.key=value"])
    *groups, last = dotted.split(".")
    at: Any = document.data
    for group in groups:
        at = at.setdefault(group, {})
        if not isinstance(at, dict):
            raise config_error(document.path, [f"'{quoted(dotted)}': '{group}' holds a value, not keys"])
    at[last] = yaml.load(value, _Loader)  # noqa: S506 - a SafeLoader


def _explain(kind: type[BaseModel], document: Document, loc: Key, error: str, message: str, given: Any) -> str:
    line = next((document.lines[loc[:n]] for n in range(len(loc), 0, -1) if loc[:n] in document.lines), None)
    where = f"line {line}: " if line else ""
    name = _dotted(loc)
    if error == "extra_forbidden":
        return f"{where}unknown key '{quoted(name)}'{suggestion(kind, loc)}"
    if error == "missing":
        return f"{where}'{name}' is missing"
    shown = "" if isinstance(given, dict | list) else f" (given: {quoted(repr(given))})"
    return (
        f"{where}{name}: {message.removeprefix('Value error, ')}{shown}"
        if name
        else f"{where}{message.removeprefix('Value error, ')}"
    )


def suggestion(kind: type[BaseModel], loc: Key) -> str:
    """'; did you mean …?' with the nearest known key, looked for first in its own group and then in the others."""
    known = list(_keys(kind, ()))
    unknown = str(loc[-1])
    group = tuple(part for part in loc[:-1] if isinstance(part, str))  # a place in a list is part of no key's name
    beside = [path for path in known if path[:-1] == group]
    # Another group's key must be all but spelt out: a faint likeness there misleads more than it helps.
    for paths, cutoff in ((beside, 0.6), (known, 0.85)):
        close = difflib.get_close_matches(unknown, [path[-1] for path in paths], n=1, cutoff=cutoff)
        if close:
            found = next(path for path in paths if path[-1] == close[0])
            return f"; did you mean '{_dotted(found)}'?"
    return f"; known here: {', '.join(path[-1] for path in beside)}" if beside else ""


def _keys(kind: type[BaseModel], at: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, field in kind.model_fields.items():
        key = (*at, field.alias or name)
        yield key
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from _keys(part, key)


def _dotted(key: Key) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")
