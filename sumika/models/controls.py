"""The tokens a base is steered by: the marks of a turn, of a text's end. Spelled in somebody's text they must stay text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

_KEPT = "control_tokens"
_DIGITS = re.compile(r"\d+")
# Gemma has 6,249, of which all but eight are numbered alike; 1,000 that differ are no tokenizer that we know.
_MOST = 1_000


def told_by(folder: Path) -> dict[str, list[str]]:
    """What the registry should keep of a base's files: its control tokens, those that differ by a number once with `0` in its place.

    They are the tokens that `tokenizer.json` calls special, and `tokenizer_config.json` where it lists any
    (`added_tokens_decoder`): both of transformers' making. Files that are no such thing tell nothing here.
    """
    found = {_DIGITS.sub("0", token) for token in _special(folder)}
    return {_KEPT: sorted(found, key=lambda token: (-len(token), token))[:_MOST]} if found else {}


def pattern(meta: Mapping[str, Any]) -> re.Pattern[str] | None:
    """Finds a control token of the base whose `meta` the registry kept; None where it has none, or came before they were kept."""
    return _compiled(tuple(meta.get(_KEPT, ())))


@lru_cache(maxsize=64)
def _compiled(tokens: tuple[str, ...]) -> re.Pattern[str] | None:
    spelled = (r"\d+".join(map(re.escape, token.split("0"))) for token in tokens)
    return re.compile("|".join(spelled)) if tokens else None


def _special(folder: Path) -> Iterator[str]:
    listed = _read(folder / "tokenizer.json").get("added_tokens")
    decoded = _read(folder / "tokenizer_config.json").get("added_tokens_decoder")
    tokens = [*(listed if isinstance(listed, list) else ()), *(decoded.values() if isinstance(decoded, dict) else ())]
    for token in tokens:
        if (
            isinstance(token, dict)
            and token.get("special") is True
            and isinstance(token.get("content"), str)
            and token["content"].strip()
        ):
            yield token["content"]


def _read(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}  # whether these files are good is for the engine to say; here they only tell of tokens
    return value if isinstance(value, dict) else {}
