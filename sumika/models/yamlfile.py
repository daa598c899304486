"""YAML that people edit: one file and what the command line lays over it, checked against a pydantic model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from sumika.models.errors import quoted
from sumika.models.yamlparse import Unusable, parse
from sumika.models.yamlproblems import COMMAND_LINE, Document, Key, Place, Problem, config_error, dotted, explained

__all__ = ["Document", "check", "config_error", "explained", "load", "overridden", "read"]

Model = TypeVar("Model", bound=BaseModel)

_LARGEST_FILE = 2**20


def read(path: Path) -> Document:
    """Parse one file.

    Raises:
        SumikaError: `bad_config`, when it is no readable file, larger than 1 MiB, not UTF-8, not YAML (or more than the
            plain part of it that configs need), or no mapping.
    """
    try:
        data, places = parse(_text(path))
        if not isinstance(data, dict):
            raise Unusable(Problem("the file must be a mapping of keys to values", "キーと値の組を書いてください"))
    except Unusable as error:
        raise config_error(path, error.problems) from None
    return Document(path, data, places)


def load(kind: type[Model], path: Path, overrides: list[str] | None = None) -> Model:
    """Read `path`, lay `overrides` (`group.key=value`) over it and check the whole against `kind`.

    Raises:
        SumikaError: `bad_config`, naming every problem with its place and, for an unknown key, the nearest known one.
    """
    return check(kind, overridden(read(path), overrides or []))


def check(kind: type[Model], document: Document, context: Any = None) -> Model:
    """`context` is for the validators of `kind`. Raises SumikaError as `load`."""
    try:
        # As JSON: strict there means no "yes" for true and no "1_000" for 1000, but a path or tuple may still be text or list.
        return kind.model_validate_json(json.dumps(document.data), strict=True, context=context)
    except ValidationError as error:
        raise explained(kind, document, error) from None


def overridden(document: Document, overrides: list[str]) -> Document:
    """`overrides` laid over a copy of the document.

    Raises:
        SumikaError: `bad_config`, with every override that is none.
    """
    # By way of JSON: two keys that share a value by an alias get each their own.
    data, places = json.loads(json.dumps(document.data)), dict(document.places)
    problems = [problem.at(COMMAND_LINE) for text in overrides for problem in _lay_over(text, data, places)]
    if problems:
        raise config_error(document.path, problems)
    return Document(document.path, data, places)


def _lay_over(text: str, data: Any, places: dict[Key, Place]) -> Iterator[Problem]:
    name, equals, value = text.partition("=")
    *groups, last = key = tuple(name.split("."))
    if not equals or not all(key):
        yield Problem(
            f"'{quoted(text)}' is no override; write group.key=value",
            f"「{quoted(text)}」は group.key=value の形で書いてください",
        )
        return
    for n, group in enumerate(groups, start=1):
        if data.get(group) is None:
            data[group] = {}
        data = data[group]
        if not isinstance(data, dict):
            inside = dotted(key[:n])
            yield Problem(
                f"'{quoted(name)}': '{inside}' holds a value, not keys; give it whole",
                f"「{quoted(name)}」: 「{inside}」は値です。全体を指定してください",
            )
            return
    try:
        data[last], _ = parse(value)
    except Unusable as error:
        for problem in error.problems:
            yield Problem(f"'{quoted(text)}': {problem.en}", f"「{quoted(text)}」: {problem.ja}")
        return
    for told in [told for told in places if told[: len(key)] == key]:
        del places[told]
    places[key] = COMMAND_LINE


def _text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise Unusable(
                Problem(
                    "is no regular file; give the path of a YAML file",
                    "通常のファイルではありません。YAMLファイルを指定してください",
                )
            )
        with path.open("rb") as file:
            raw = file.read(_LARGEST_FILE + 1)
    except FileNotFoundError:
        raise Unusable(
            Problem("the file does not exist; check the path", "ファイルがありません。パスを確認してください")
        ) from None
    except OSError as error:
        raise Unusable(Problem(
            f"can't be read ({error.strerror}); check the path and who may read it", f"読めません({error.strerror})。パスと権限を確認してください"
        )) from None  # fmt: skip
    if len(raw) > _LARGEST_FILE:
        raise Unusable(Problem(
            "is larger than 1 MiB; a config is a page, and data goes into files of its own", "1 MiB を超えています。データは別のファイルにしてください"
        ))  # fmt: skip
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unusable(Problem(
            f"byte {error.start} is not UTF-8; save the file as UTF-8", f"{error.start} バイト目がUTF-8ではありません。UTF-8で保存してください"
        )) from None  # fmt: skip
