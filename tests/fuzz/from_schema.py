"""Requests made from an OpenAPI document: what it says, and now and then what it does not say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from tests.fuzz.values import KEYS, TEXTS, nasty

# Of ten values one that the document does not describe.
_STRAY = 10
_DEEPEST = 6

_texts = st.sampled_from([text for text in TEXTS if text.isprintable()]) | st.text(max_size=12)


class Document:
    """Strategies for the operations of a document."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document

    def operations(self) -> list[tuple[str, str, Mapping[str, Any]]]:
        """(method, path, operation)"""
        return [(m.upper(), path, told) for path, methods in self._document["paths"].items() for m, told in methods.items()]

    @st.composite
    @staticmethod
    def target(draw: DrawFn, path: str, operation: Mapping[str, Any]) -> str:
        """A path with its parameters filled in, and a query."""
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "path":
                told = draw(st.sampled_from(["talk", "base@1", "key-0", "1", "key"]) | _texts)
                path = path.replace(f"{{{parameter['name']}}}", quote(told, safe="", errors="surrogatepass") or "x")
        names = [p["name"] for p in operation.get("parameters", ()) if p["in"] == "query"]
        given = draw(st.lists(st.tuples(st.sampled_from([*names, "x"]), st.integers().map(str) | _texts), max_size=3))
        return f"{path}?{urlencode(given, errors='surrogatepass')}" if given else path

    def body(self, operation: Mapping[str, Any]) -> SearchStrategy[Any] | None:
        """A body of JSON, where the operation takes one."""
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        return self.value(content["schema"]) if content else None

    def value(self, schema: Mapping[str, Any], depth: int = 0) -> SearchStrategy[Any]:
        """What `schema` describes, mostly."""
        described = st.deferred(lambda: self._described(schema, depth))
        return st.integers(1, _STRAY).flatmap(lambda n: nasty if n == _STRAY else described)

    def _described(self, schema: Mapping[str, Any], depth: int) -> SearchStrategy[Any]:
        if "$ref" in schema:
            return self._described(self._document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], depth)
        if depth > _DEEPEST:
            return st.none()
        for word in ("anyOf", "oneOf", "allOf"):
            if word in schema:
                return st.one_of([self._described(one, depth + 1) for one in schema[word]])
        if "const" in schema:
            return st.just(schema["const"])
        if "enum" in schema:
            return st.sampled_from(schema["enum"])
        return self._typed(schema, depth)

    def _typed(self, schema: Mapping[str, Any], depth: int) -> SearchStrategy[Any]:
        kind = schema.get("type")
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            least = schema.get("minItems", 0)
            most = max(least, min(schema.get("maxItems", 4), 4))
            return st.lists(self.value(schema.get("items", {}), depth + 1), min_size=least, max_size=most)
        if kind in ("integer", "number"):
            low, high = (
                schema.get("minimum", schema.get("exclusiveMinimum")),
                schema.get("maximum", schema.get("exclusiveMaximum")),
            )
            edges = [edge + step for edge in (low, high) if edge is not None for step in (-1, 0, 1)]
            return st.sampled_from([int(edge) for edge in edges] or [0]) | st.integers(-(2**70), 2**70) | st.integers(0, 100)
        if kind == "boolean":
            return st.booleans()
        if kind == "null":
            return st.none()
        if kind == "string":
            return st.just("talk") | _texts
        return nasty

    def _object(self, schema: Mapping[str, Any], depth: int) -> SearchStrategy[dict[str, Any]]:
        told: Mapping[str, Any] = schema.get("properties", {})
        must = set(schema.get("required", ()))

        @st.composite
        def made(draw: DrawFn) -> dict[str, Any]:
            some = draw(st.sets(st.sampled_from(sorted(told)), max_size=4)) if told else set()
            result = {name: draw(self.value(told[name], depth + 1)) for name in sorted(must | some) if name in told}
            if draw(st.integers(1, _STRAY)) == _STRAY:
                result[draw(st.sampled_from(KEYS))] = draw(nasty)
            return result

        return made()
