"""Forms of one and the same text: counted always, changed only where data.normalize says so."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from sumika.finetune.data.settings import Normalize

_FORMS = {
    "half_width_katakana": re.compile("[\uff66-\uff9f]"),
    "full_width_alphanumerics": re.compile("[０-９Ａ-Ｚａ-ｚ]"),
    "wave_dash_301c": re.compile("\u301c"),
    "full_width_tilde_ff5e": re.compile("\uff5e"),
    "minus_2212": re.compile("\u2212"),
    "full_width_hyphen_ff0d": re.compile("\uff0d"),
    "private_use": re.compile("[\ue000-\uf8ff]"),
    "zero_width": re.compile("[\u200b\u2060\ufeff]"),
}
# CP932 gives each of these bytes another character than Shift_JIS and JIS X 0208 do (～ for 〜, and so on).
_DISPUTED = re.compile("[\uff5e\u2225\uff0d\uffe0\uffe1\uffe2]")
_FORM = {"nfc": "NFC", "nfkc": "NFKC"}


def normalized(text: str, how: Normalize) -> str:
    return text if how == "none" else unicodedata.normalize(_FORM[how], text)  # type: ignore[arg-type]


def forms(text: str) -> Iterator[str]:
    """Which of the forms worth knowing about stand in `text`."""
    if text.isascii():
        return
    if not unicodedata.is_normalized("NFC", text):
        yield "not_nfc"
    for name, sign in _FORMS.items():
        if sign.search(text):
            yield name


def disputed(text: str) -> int:
    """How many characters of a CP932 file another reader would take for others."""
    return len(_DISPUTED.findall(text))
