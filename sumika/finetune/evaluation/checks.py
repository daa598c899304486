"""Whether one answer is right, and how near it comes to the one expected."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from sumika.finetune.data.record import Conversation, Row
from sumika.finetune.evaluation.patterns import PatternSearch

Check = Literal["facts", "exact", "json", "regex"]


def right(check: Check, text: str, row: Row[Conversation], search: PatternSearch | None = None) -> bool | None:
    """Whether `text` answers `row`; None where the row has nothing to judge it by.

    `facts`: it holds the row's facts. `exact`: it is the row's answer. `json`: it and the row's answer are the same JSON
    value. `regex`: the row's answer is a pattern (Python's) that `search` finds in it.
    """
    expected = row.content.messages[-1]["content"]
    match check:
        case "facts":
            return holds_facts(text, row.facts) if row.facts else None
        case "exact":
            return exact(text, expected)
        case "json":
            value = _json(text)
            return value is not None and value == _json(expected)
        case "regex":
            normal = unicodedata.normalize("NFKC", text)
            if search is not None:
                return search.found(expected, normal)
            with PatternSearch() as alone:
                return alone.found(expected, normal)


def exact(text: str, expected: str) -> bool:
    """The same after NFKC, white space at the ends aside."""
    return plain(text) == plain(expected)


def f1(text: str, expected: str) -> float:
    """Overlap of the two as bags of characters, 0 to 1: the harmonic mean of precision and recall, as for SQuAD's words
    (Rajpurkar et al., 2016), with characters in their place since Japanese has no spaces."""
    given, wanted = (Counter("".join(plain(one).split())) for one in (text, expected))
    common = (given & wanted).total()
    return 2 * common / (given.total() + wanted.total()) if common else 0.0


def plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).strip()


def holds_facts(text: str, facts: Iterable[Sequence[str]]) -> bool:
    """Whether `text` has, after NFKC, one string of every requirement, not as the tail of a longer number."""
    normal = unicodedata.normalize("NFKC", text)
    return all(any(_has(normal, unicodedata.normalize("NFKC", one)) for one in requirement) for requirement in facts)


def _has(text: str, fact: str) -> bool:
    at = text.find(fact)
    while at >= 0:
        # 「119円」 does not say 「19円」, nor 「11,500円」 「500円」.
        if not (fact[0].isdigit() and at > 0 and (text[at - 1].isdigit() or text[at - 1] in ",.")):
            return True
        at = text.find(fact, at + 1)
    return False


def _json(text: str) -> Any:
    """A model often puts JSON between fences of Markdown; they are no part of the value."""
    inner = text.strip()
    if len(inner) >= 6 and inner.startswith("```") and inner.endswith("```"):
        inner = inner[3:-3].removeprefix("json")
    try:
        return json.loads(inner)
    except (ValueError, RecursionError):
        return None
