"""One thing looked at: how it is, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]
"""warn: works, but not as a company wants it. fail: data, secrets or answers are at risk, or it does not start."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`name` is stable, for machines; `en` and `ja` say what was found and, unless all is well, the remedy."""

    name: str
    level: Level
    en: str
    ja: str


def fine(name: str, en: str, ja: str) -> Finding:
    return Finding(name, "ok", en, ja)


def warn(name: str, en: str, ja: str) -> Finding:
    return Finding(name, "warn", en, ja)


def fail(name: str, en: str, ja: str) -> Finding:
    return Finding(name, "fail", en, ja)
