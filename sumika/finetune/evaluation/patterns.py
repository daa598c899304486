"""Patterns of a regex suite. An engineer wrote them, and some take longer than the universe is old: searches are bounded in time."""

from __future__ import annotations

import logging
import time

import regex

from sumika.models.errors import quoted

log = logging.getLogger(__name__)

LONGEST = 2000
# Of one search, and of all that one judgement makes.
_SEARCH_S, _SEARCHES_S = 1.0, 60.0


def fault(pattern: str) -> str | None:
    """Why `pattern` is none, in the library's words."""
    if len(pattern) > LONGEST:
        return f"longer than {LONGEST:,} characters"
    try:
        regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError) as error:
        return quoted(str(error))
    return None


class PatternSearch:
    """Searches for `left_s` seconds in all. A search that takes too long, or comes after that, finds nothing."""

    def __init__(self, left_s: float = _SEARCHES_S) -> None:
        self._left_s = left_s

    def found(self, pattern: str, text: str) -> bool:
        if self._left_s <= 0:
            return False
        began = time.monotonic()
        try:
            return regex.search(pattern, text, timeout=min(_SEARCH_S, self._left_s)) is not None
        except TimeoutError:
            log.warning("a suite's pattern took too much time, and counts as not found")
            return False
        finally:
            self._left_s -= time.monotonic() - began
