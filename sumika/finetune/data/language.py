"""The language of a text, by its script alone: kana is Japanese, Latin letters are taken for English."""

from __future__ import annotations

import re
from typing import Literal

Language = Literal["ja", "en", "other"]

_KANA = re.compile("[\u3041-\u309f\u30a1-\u30ff\uff66-\uff9f]")
_HAN = re.compile("[\u3005\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_LATIN = re.compile("[A-Za-z]")
_SHORT = 20


def of(text: str) -> Language:
    """ja: kana make a fiftieth of the letters, or a short text of Han characters alone (有給休暇); en: over four fifths Latin."""
    kana, han, latin = (len(sign.findall(text)) for sign in (_KANA, _HAN, _LATIN))
    letters = sum(character.isalpha() for character in text)
    if letters == 0:
        return "other"
    if kana and (kana + han) * 10 >= letters and kana * 50 >= letters:
        return "ja"
    if han and not kana and han == letters and han < _SHORT:
        return "ja"
    return "en" if latin * 5 > letters * 4 else "other"
