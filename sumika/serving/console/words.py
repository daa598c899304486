"""The console's words: `words.yaml` has each in Japanese and English."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from sumika.models.errors import Language

FILE = Path(__file__).with_name("words.yaml")


class Words:
    """By dotted key; both languages are always there."""

    def __init__(self, words: dict[str, tuple[str, str]]) -> None:
        self._words = words

    @classmethod
    def read(cls) -> Words:
        """Raises ValueError where a word lacks a language."""
        found: dict[str, tuple[str, str]] = {}
        for group, words in yaml.load(FILE.read_text(encoding="utf-8"), yaml.CSafeLoader).items():
            for name, both in words.items():
                ja, en = both
                found[f"{group}.{name}"] = (str(ja), str(en))
        return cls(found)

    def __iter__(self) -> Iterator[str]:
        return iter(self._words)

    def text(self, key: str, language: Language, **values: object) -> str:
        """Raises KeyError for a word that is not in the catalogue."""
        ja, en = self._words[key]
        return (ja if language == "ja" else en).format(**values) if values else (ja if language == "ja" else en)
