"""How an embedding model makes one vector of a text, as sentence-transformers keeps it beside the weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Literal, get_args

Pooling = Literal["mean", "cls", "last"]

MODULES = "modules.json"
# Folders that hold nothing but what `read` takes from them; model files lie side by side in one folder without them.
ASIDE = re.compile(r"[0-9]_(Pooling|Normalize)")
_FLAGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "last"}


def read(source: Path) -> Pooling | None:
    """From `1_Pooling/config.json`; None where it is not there, or names none that is served.

    Either flags, or `pooling_mode` with a word (sentence-transformers 5).
    """
    for folder in sorted(source.glob("[0-9]_Pooling")):
        try:
            config = json.loads((folder / "config.json").read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        if not isinstance(config, dict):
            continue
        words = {word for flag, word in _FLAGS.items() if config.get(flag) is True} or {str(config.get("pooling_mode"))}
        known: tuple[Pooling, ...] = get_args(Pooling)
        for word in known:
            if words <= {word, f"{word}token"}:
                return word
    return None
