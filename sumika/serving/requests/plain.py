"""What a client wrote stays text: a control token of the model spelled in it is parted by a space.

Tokenizers look for these tokens in the finished prompt, so one that stands in a message would end it and begin another role's.
A space is the least that parts them whatever the tokenizer normalises; an invisible mark may be normalised away. Requests hand
their texts over in the order in which a template would write them, since one may end a token that another began.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sumika.models.control_text import ControlText
from sumika.serving.requests.schemas import NAMED

Body = dict[str, Any]
# Keywords that no token is called by.
_USUAL = frozenset(
    {"type", "properties", "required", "description", "items", "enum", "title", "default", "format", "anyOf", "allOf"}
)


class Plain:
    """The texts of one request, less the control tokens in them."""

    def __init__(self, controls: ControlText) -> None:
        self._controls = controls
        self._tail = ""

    def alone(self) -> Plain:
        """For texts that stand side by side somewhere else than these."""
        return Plain(self._controls)

    def after(self, before: str, text: str) -> str:
        """`text` where it stands behind `before`, and not behind what was handed over last."""
        self._tail = self._controls.tail(before)
        return self.text(text)

    def text(self, text: str) -> str:
        if not text:
            return text
        text = self._controls.parted(text)
        if self._controls.spans(self._tail, text):
            text = f" {text}"
        self._tail = self._controls.tail(self._tail + text)
        return text

    def name(self, name: str) -> str:
        """One that stands in several places, and must be the same in all of them."""
        return self._controls.parted(name)

    def texts(self, body: Body, *fields: str) -> None:
        """Those of `fields` that `body` has."""
        for field in fields:
            if isinstance(body.get(field), str):
                body[field] = self.text(body[field])

    def names(self, body: Body, *fields: str) -> None:
        for field in fields:
            if isinstance(body.get(field), str):
                body[field] = self.name(body[field])

    def joined(self, parts: Iterable[Body], between: str = "\n") -> str:
        """The text of several parts: templates put them side by side, and some trim each of them first. vLLM itself puts a line
        break between them where a template takes text alone."""
        return self.text(between.join(part["text"] for part in parts))

    def value(self, value: Any) -> Any:
        """Any JSON, its keys too."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if isinstance(value, dict):
            return {self.key(name): self.value(item) for name, item in value.items()}
        return value

    def key(self, name: str) -> str:
        """A name that some templates write into a tag, as in `<parameter=NAME>`: it must begin none that the tag's end completes."""
        name = self.text(name)
        return f"{name} " if self._controls.search(f"{name}>") else name

    def schema(self, schema: Any) -> Any:
        """A JSON schema. Some templates write its keywords as tags, so one that would be a token as a tag is none any more."""
        if isinstance(schema, list):
            return [self.schema(item) for item in schema]
        if not isinstance(schema, dict):
            return self.value(schema)
        return {
            self._keyword(name): {self.key(key): self.schema(item) for key, item in value.items()}
            if name in NAMED and isinstance(value, dict)
            else self.schema(value)
            for name, value in schema.items()
        }

    def _keyword(self, name: str) -> str:
        if name in _USUAL:
            return name
        name = self.key(name)
        return f" {name} " if self._controls.search(f"<{name}></{name}>") else name

    def arguments(self, arguments: str) -> str:
        """Of a call, as JSON: vLLM reads it, and the template writes what was read. Text that is no JSON is dropped there."""
        try:
            value = json.loads(arguments)
        except (ValueError, RecursionError):
            return self.text(arguments)
        plain = self.value(value)
        if plain == value and not self._controls.search(arguments):
            return arguments
        return json.dumps(plain, ensure_ascii=False)
