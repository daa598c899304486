"""Which modules an adapter's config names, found without running its maker's regular expression without a bound, as PEFT would."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import regex

from sumika.models.errors import SumikaError, quoted

_MATCHING_S = 2.0
_ALL = "all-linear"


def resolved(config: dict[str, Any], modules: Sequence[str]) -> dict[str, Any]:
    """`config` with its expressions for `modules` (the base's, by their full names) put as lists.

    Raises:
        SumikaError: `bad_adapter`, for one that is no expression, or takes longer than seconds.
    """
    given = {key: config.get(key) for key in ("target_modules", "exclude_modules")}
    expressions = {key: text for key, text in given.items() if isinstance(text, str) and text != _ALL}
    return config | {key: _matching(key, text, modules) for key, text in expressions.items()}


def _matching(key: str, expression: str, modules: Sequence[str]) -> list[str]:
    deadline = time.monotonic() + _MATCHING_S
    try:
        compiled = regex.compile(expression)
        return [name for name in modules if compiled.fullmatch(name, timeout=max(0.001, deadline - time.monotonic()))]
    except (TimeoutError, regex.error, OverflowError, MemoryError, RecursionError) as error:
        why = (
            ("takes too long", "照合に時間がかかりすぎます")
            if isinstance(error, TimeoutError)
            else ("is none", "正規表現ではありません")
        )
        shown = quoted(expression[:100])
        raise SumikaError(
            "bad_adapter",
            f"The adapter can't be served: its {key} is the regular expression '{shown}', which {why[0]}. List the modules' names instead.",
            f"このアダプターは配備できません: {key} の正規表現「{shown}」は{why[1]}。モジュール名の一覧にしてください。",
        ) from error
