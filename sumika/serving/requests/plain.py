"""What a client wrote stays text: a control token of the model spelled in it is parted by a space."""

from __future__ import annotations

import re
from typing import Any

# What the model reads. `prompt` is left alone: who sends one writes the model's own form by hand, marks and all.
_READ = frozenset({"messages", "system", "instructions", "input", "query", "documents", "tools"})


def parted(body: dict[str, Any], controls: re.Pattern[str]) -> dict[str, Any]:
    """`body` with no control token in what the model reads: `<|im_end|>` becomes `< |im_end|>`.

    Tokenizers look for these tokens in the finished prompt, so one that stands in a message would end it and begin another
    role's. A space is the least that parts them whatever the tokenizer normalises; an invisible mark may be normalised away.
    """
    return {name: _parted(value, controls) if name in _READ else value for name, value in body.items()}


def _parted(value: Any, controls: re.Pattern[str]) -> Any:
    if isinstance(value, str):
        return controls.sub(lambda found: f"{found[0][0]} {found[0][1:]}", value)
    if isinstance(value, list):
        return [_parted(item, controls) for item in value]
    if isinstance(value, dict):
        return {_parted(name, controls): _parted(item, controls) for name, item in value.items()}
    return value
