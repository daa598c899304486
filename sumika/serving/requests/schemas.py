"""JSON Schemas that clients send: a grammar is compiled from each in the engine, in front of everybody else's answers.

llguidance compiles what these bounds let through in at most 0.3 s on one slow core, with 262,144 tokens (xgrammar: 14 s for 1,000
properties, 9 s for 50 patterns, over 5 minutes for 200 strings of bounded lengths). It gives up where over 2,000 items stand open
at once, which 500 optional properties of one object reach.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from sumika.serving.requests.patterns import check_pattern
from sumika.serving.requests.problems import refused

_MAX_DEPTH = 24
_MAX_NODES = 5_000
_MAX_ENUM = 1_000
_MAX_PROPERTIES = 450
_MAX_TEXT = 120_000
_MAX_COUNT = 10_000
_MAX_REFERENCES = 200
_MAX_CHAIN = 32
_COUNTS = frozenset({"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"})
NAMED = frozenset({"properties", "$defs", "definitions", "patternProperties", "dependentSchemas"})
_VALUES = frozenset({"const", "default", "example", "examples", "enum"})


def check_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` as llguidance takes it, where a grammar can be made of it at a bounded cost.

    `oneOf` becomes `anyOf`: the same for the unions that clients make of classes, and what a grammar can tell of the others.
    `x-guidance`, by which a schema could set the compiler's own options, is left out.

    Raises:
        PydanticCustomError: `schema_refused`.
    """
    look = _Look()
    look.at(schema, _MAX_DEPTH)
    _check_references(schema, look.references)
    told: dict[str, Any] = _as_compiled(schema)
    return told


def _as_compiled(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_as_compiled(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _value_as_compiled(key, value) for key, value in schema.items() if key not in ("x-guidance", "oneOf")}
    if "oneOf" in schema:
        one = _as_compiled(schema["oneOf"])
        if "anyOf" in made:
            above = [{"allOf": made["allOf"]}] if "allOf" in made else []
            made["allOf"] = [*above, {"anyOf": one}]
        else:
            made["anyOf"] = one
    return made


def _value_as_compiled(key: str, value: Any) -> Any:
    if key in _VALUES:
        return value
    if key in NAMED and isinstance(value, dict):
        return {name: _as_compiled(item) for name, item in value.items()}
    return _as_compiled(value)


Schema = Annotated[dict[str, Any], AfterValidator(check_schema)]
# What an answer must fit: one without a word has ended whole engines (CVE-2026-105757).
AnswerSchema = Annotated[Schema, Field(min_length=1)]


class _Look:
    """One pass over a schema: what was met so far."""

    def __init__(self) -> None:
        self.nodes = 0
        self.text = 0
        self.enums = 0
        self.properties = 0
        self.references: set[str] = set()

    def at(self, value: Any, depth: int) -> None:
        """A schema, or a list or an object of schemas."""
        self._count(value, depth)
        if isinstance(value, list):
            for item in value:
                self.at(item, depth - 1)
        elif isinstance(value, dict):
            self._count_properties(value)
            for key, item in value.items():
                self.text += len(key)
                self._keyword(key, item, depth - 1)

    def _count_properties(self, schema: dict[str, Any]) -> None:
        properties = schema.get("properties")
        self.properties += len(properties) if isinstance(properties, dict) else 0
        if self.properties > _MAX_PROPERTIES:
            raise _refused(f"it has more than {_MAX_PROPERTIES} properties", f"プロパティが {_MAX_PROPERTIES} 個を超えています")

    def _keyword(self, key: str, value: Any, depth: int) -> None:
        _check_form(key, value)
        if key in NAMED:
            self._count(value, depth)
            for name, item in value.items():
                self.text += len(name)
                if key == "patternProperties":
                    check_pattern(name)
                self.at(item, depth - 1)
        elif key in _VALUES:
            self._values(key, value, depth)
        elif key == "$ref":
            self._reference(value)
        elif key == "pattern" and isinstance(value, str):
            check_pattern(value)
        elif key in _COUNTS and isinstance(value, int | float) and not 0 <= value <= _MAX_COUNT:
            raise _refused(f"{key} must be between 0 and {_MAX_COUNT:,}", f"{key} は 0〜{_MAX_COUNT:,} にしてください")
        else:
            self.at(value, depth)

    def _values(self, key: str, value: Any, depth: int) -> None:
        """Plain JSON that no rule of a schema holds for."""
        if key == "enum":
            self.enums += len(value) if isinstance(value, list) else 0
            if self.enums > _MAX_ENUM:
                raise _refused(f"it has more than {_MAX_ENUM:,} enum values", f"enum の値が {_MAX_ENUM:,} 個を超えています")
        self._plain(value, depth)

    def _plain(self, value: Any, depth: int) -> None:
        self._count(value, depth)
        for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            self._plain(item, depth - 1)

    def _reference(self, value: Any) -> None:
        if not isinstance(value, str) or not (value == "#" or value.startswith("#/")):
            raise _refused(
                "$ref may only lead to a place in the same schema (#/…)", "$ref は同じスキーマ内(#/…)だけを参照できます"
            )
        self.references.add(value)
        if len(self.references) > _MAX_REFERENCES:
            raise _refused(
                f"it has more than {_MAX_REFERENCES} different $ref", f"$ref の参照先が {_MAX_REFERENCES} 種類を超えています"
            )

    def _count(self, value: Any, depth: int) -> None:
        self.nodes += 1
        self.text += len(value) if isinstance(value, str) else 0
        if depth <= 0:
            raise _refused(f"it is nested deeper than {_MAX_DEPTH} levels", f"入れ子が {_MAX_DEPTH} 段を超えています")
        if self.nodes > _MAX_NODES:
            raise _refused(f"it has more than {_MAX_NODES:,} parts", f"要素が {_MAX_NODES:,} 個を超えています")
        if self.text > _MAX_TEXT:
            raise _refused(f"its texts are longer than {_MAX_TEXT:,} characters", f"文字列が {_MAX_TEXT:,} 文字を超えています")


def _check_form(key: str, value: Any) -> None:
    """What chat templates read of a tool's schema without asking what it is; llguidance never sees that of a tool that may be left out."""
    if key in NAMED and not (isinstance(value, dict) and all(isinstance(item, dict | bool) for item in value.values())):
        raise _refused(f"{key} must be an object of schemas", f"{key} はスキーマのオブジェクトにしてください")
    if key in ("type", "required"):
        texts = value if isinstance(value, list) else [value] if key == "type" else [None]
        if not all(isinstance(text, str) for text in texts):
            raise _refused(f"{key} must be text, or a list of texts", f"{key} は文字列か、その配列にしてください")


def _check_references(schema: dict[str, Any], references: set[str]) -> None:
    """Each leads somewhere, and none back to where it stands: a schema that holds itself allows answers without end."""
    leads = {reference: _references_in(_find(schema, reference)) for reference in references}
    done: set[str] = set()
    for start in leads:
        _walk(start, leads, set(), done)


def _walk(at: str, leads: dict[str, list[str]], above: set[str], done: set[str]) -> None:
    if any(at == other or other.startswith(f"{at}/") for other in above) or at == "#":
        raise _refused(f"{at[:80]} holds itself; recursion is not taken", f"{at[:80]} が自分自身を含んでいます(再帰は使えません)")
    if at in done:
        return
    if len(above) > _MAX_CHAIN:
        raise _refused(
            f"its $ref lead to each other over more than {_MAX_CHAIN} steps", f"$ref の連鎖が {_MAX_CHAIN} 段を超えています"
        )
    for following in leads.get(at, ()):
        _walk(following, leads, above | {at}, done)
    done.add(at)


def _references_in(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for item in value.values() for found in _references_in(item)]
    return [found for item in value for found in _references_in(item)] if isinstance(value, list) else []


def _find(schema: Any, reference: str) -> Any:
    for part in reference.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(schema, dict) and key in schema:
            schema = schema[key]
        elif isinstance(schema, list) and re.fullmatch("0|[1-9][0-9]{0,3}", key) and int(key) < len(schema):
            schema = schema[int(key)]
        else:
            raise _refused(f"$ref {reference[:80]} leads nowhere", f"$ref {reference[:80]} の参照先がありません")
    return schema


def _refused(en: str, ja: str) -> PydanticCustomError:
    return refused("schema_refused", f"this JSON schema is not taken: {en}.", f"このJSONスキーマは使えません: {ja}。")
