"""Tokens that part a conversation into its turns. Written by a user they are read as what they say, not as text: chat templates paste
messages into one text, and tokenizers then find their special tokens wherever they stand (vLLM 0.32 and transformers 5 alike)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# tokenizer.json of a vocabulary of 262,144 has 33 MB, which nobody shall wait for; its special tokens come before its vocabulary.
_HEAD_BYTES = 4 * 2**20
_ADDED = re.compile(r'"added_tokens"\s*:\s*')
# Nearly all look like <this> or [THIS]; those are found by their shape, since a model may have thousands.
_SHAPES = (re.compile(r"<[^<>\s]{1,62}>"), re.compile(r"\[[^\[\]\s]{1,62}\]"))


@dataclass(frozen=True, slots=True)
class ControlTokens:
    """Those of one base, as they stand in JSON."""

    shaped: frozenset[str] = frozenset()
    others: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, texts: Iterator[str] | tuple[str, ...]) -> ControlTokens:
        # One or two characters are no mark of a turn, but would be found everywhere.
        spelled = {json.dumps(text, ensure_ascii=False)[1:-1] for text in texts if len(text) > 2 and not text.isspace()}
        shaped = {text for text in spelled if any(shape.fullmatch(text) for shape in _SHAPES)}
        return cls(frozenset(shaped), tuple(sorted(spelled - shaped)))

    def found_in(self, body: str) -> str | None:
        """The first of them in a body of JSON whose other than ASCII characters are not escaped."""
        for shape, mark in zip(_SHAPES, "<[", strict=True):
            if mark in body:
                for found in shape.finditer(body):
                    if found.group() in self.shaped:
                        return found.group()
        return next((text for text in self.others if text in body), None)


def read(folder: Path) -> ControlTokens:
    """The special tokens that a base's tokenizer knows; none where its files tell none."""
    settings = _json(folder / "tokenizer_config.json")
    added = list(_of_dict(settings.get("added_tokens_decoder")).values()) or _added(folder / "tokenizer.json")
    texts = {
        token["content"]
        for token in added
        if isinstance(token, dict) and token.get("special") is True and isinstance(token.get("content"), str)
    }
    texts |= set(_named(settings)) | set(_named(_json(folder / "special_tokens_map.json")))
    return ControlTokens.of(tuple(texts))


def _added(path: Path) -> list[Any]:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES).decode(errors="replace")
        at = _ADDED.search(head)
        added = json.JSONDecoder().raw_decode(head, at.end())[0] if at else []
        return added if isinstance(added, list) else []
    except (OSError, ValueError, RecursionError):
        return []


def _named(settings: dict[str, Any]) -> Iterator[str]:
    """`eos_token` and the like, and lists of further ones."""
    for key, value in settings.items():
        if key.endswith("_token"):
            yield from _text(value)
        elif key in ("additional_special_tokens", "extra_special_tokens"):
            for item in value if isinstance(value, list) else _of_dict(value).values():
                yield from _text(item)


def _text(value: Any) -> Iterator[str]:
    text = value.get("content") if isinstance(value, dict) else value
    if isinstance(text, str):
        yield text


def _of_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return _of_dict(json.loads(file.read(_HEAD_BYTES)))
    except (OSError, ValueError, RecursionError):
        return {}
