"""Regular expressions of a tokenizer, by which it takes every user's text apart: none may take for ever over it.

The tokenizers library runs them on Oniguruma, which tries all ways to match: `(a+)+` has twice as many for each letter more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sumika.models import tokenizer_files
from sumika.models.errors import SumikaError

_STEPS = frozenset({"normalizer", "pre_tokenizer", "post_processor", "decoder"})
# DeepSeek's, with whole alphabets in it, has 700 characters; nobody has more than a dozen.
_MOST_CHARACTERS = 4_096
_MOST = 64
_UNBOUNDED = re.compile(r"[*+]\??|\{\d*,\}[?+]?")
# These match in one way only, or never give back what they took.
_VARIES = re.compile(r"[*+?]\??|\{\d*,\d*\}\??")
# Escapes, classes (one may stand in another), groups, quantifiers with what makes them lazy or possessive.
_CLASS = r"\[\^?+\]?+(?:\\.|[^\]\\\[]|\[(?:\\.|[^\]\\])*+\])*+\]"
_PART = re.compile(
    rf"\\[pP]\{{[^}}]*\}}|\\.|{_CLASS}|\(\?>|\(\?#|\(\?[a-zA-Z-]*[:=!)]|\(\?<[=!]|\(|\)|\||(?:[*+?]|\{{\d*,?\d*\}})[?+]?|.",
    re.DOTALL,
)
_REFERENCE = re.compile(r"\\[1-9kg]")


def check(folder: Path) -> None:
    """Raises SumikaError `bad_model`, for one that repeats what varies in length, or has alternatives."""
    steps = tokenizer_files.fields(folder / "tokenizer.json", _STEPS.__contains__)
    expressions = set(_expressions(list(steps.values())))
    if len(expressions) > _MOST or not all(len(one) <= _MOST_CHARACTERS and _is_quick(one) for one in expressions):
        raise SumikaError(
            "bad_model",
            "The folder is not a model that can be served: its tokenizer.json has a regular expression that may take for ever over "
            "a text. Get the model from its own source and import that.",
            "このフォルダーは配備できるモデルではありません: tokenizer.json に、処理が終わらなくなるおそれのある正規表現があります。"
            "モデルを公式の入手元から取得し、取り込み直してください。",
        )


def _expressions(steps: Any) -> Iterator[str]:
    left = [steps]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if isinstance(expression := value.get("Regex"), str):
                yield expression
            left += value.values()
        elif isinstance(value, list):
            left += value


def _is_quick(expression: str) -> bool:
    """Whether no group that repeats without end varies in what it matches, and none refers to another."""
    open_groups: list[bool] = [False]  # for each whether it varies
    ended = False  # whether the group that ended last does
    for part in _PART.findall(expression):
        if _REFERENCE.fullmatch(part):
            return False
        if part.startswith("(") and not part.endswith(")"):
            open_groups.append(False)
        elif part == ")" and len(open_groups) > 1:
            ended = open_groups.pop()
            open_groups[-1] |= ended
            continue
        elif part == "|":
            open_groups[-1] = len(open_groups) > 1 or open_groups[-1]
        elif _UNBOUNDED.fullmatch(part) and ended:
            return False
        elif _VARIES.fullmatch(part):
            open_groups[-1] = True
        ended = False
    return True
