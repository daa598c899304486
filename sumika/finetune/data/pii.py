"""What a model should not learn, by kind: Individual Numbers with their check digit, cards with Luhn, Japanese phone numbers,
e-mail, keys and other secrets of known shapes, and the tokenizer's own control tokens.

A net with known holes: no names, no postal addresses, no passwords. Values found are never shown but with all but their end
hidden.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from sumika.finetune.data import credentials

Kind = Literal["secret", "card", "my_number", "phone", "email", "control_token"]
KINDS: tuple[Kind, ...] = get_args(Kind)

PLACEHOLDERS: dict[Kind, str] = {
    "secret": "〔秘密情報〕", "control_token": "〔制御トークン〕", "card": "〔カード番号〕", "my_number": "〔個人番号〕", "phone": "〔電話番号〕", "email": "〔メールアドレス〕",
}  # fmt: skip

# One character for one, so that places in the plain text are places in the real one.
_PLAIN = (
    {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)} | {0x3000: " "} | dict.fromkeys(map(ord, "‐‑‒–—―−－ー"), "-")
)
# Cards before Individual Numbers: the head of a card number often passes the latter's check.
_SHAPES: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("secret", credentials.SHAPE),
    ("card", re.compile(r"(?<!\d)(?<!\d[- ])(?:\d{13,19}|\d{4}([- ])\d{4}\1\d{4}\1\d{1,7}|\d{4}([- ])\d{6}\2\d{4,5})(?![- ]?\d)")),
    ("my_number", re.compile(r"(?<!\d)(?<!\d[-. ])(?<![A-Za-z_])(?:\d{12}|\d{4}([- ])\d{4}\1\d{4})(?![-. ]?\d)(?![A-Za-z_])")),
    ("phone", re.compile(
        r"(?<![\dA-Za-z])(?<!\d[-.])(?:"
        r"(?:\+81[- ]?|0)(?:[5789]0[- ]?\d{4}[- ]?\d{4}"  # mobile and IP phones
        r"|(?:\d{1,4}[- ]\d{1,4}[- ]\d{4}|\d{0,4}\(\d{1,4}\)\d{4})"  # 03-1234-5678, 03(1234)5678
        r"|(?:120|570|990)[- ]?\d{3}[- ]?\d{3}|800[- ]?\d{3}[- ]?\d{4}"  # free and paid numbers
        r"|[1-9]\d{8})"  # 0312345678
        r"|\(0\d{1,4}\) ?\d{1,4}[- ]\d{4})(?![-.]?\d)"  # (03)1234-5678
    )),
    ("email", re.compile(r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9-])")),
)  # fmt: skip
# Visa, Mastercard, American Express, JCB, Diners, Discover, UnionPay (ISO/IEC 7812 issuer ranges).
_ISSUER = re.compile(r"4|5[1-5]|2(?:2[2-9]|[3-6]|7[01]|720)|3[47]|35(?:2[89]|[3-8])|3(?:0[0-5]|[689])|6(?:011|4[4-9]|5|2)")


@dataclass(frozen=True, slots=True)
class Found:
    """Personal data at `start` to `end` of a text."""

    kind: Kind
    start: int
    end: int

    def hidden(self, text: str) -> str:
        """What may be shown of it: the last two digits, the first letter of an address, the first four of a secret, which name its kind."""
        value = text[self.start : self.end]
        if self.kind == "control_token":
            return value
        if self.kind == "secret":
            return f"{value[:4]}•••"
        if self.kind == "email":
            return f"{value[0]}•••@•••"
        keep = [i for i, character in enumerate(value) if character.isdigit()][-2:]
        return "".join(c if i in keep or not c.isdigit() else "•" for i, c in enumerate(value))


def find(text: str, control_tokens: re.Pattern[str] | None = None) -> list[Found]:
    """All there is, in the order of the text; none overlaps another. `control_tokens`: those of a tokenizer, found in the
    spelling that it knows."""
    plain = text.translate(_PLAIN)
    matches = [(kind, match) for kind, shape in _SHAPES for match in shape.finditer(plain)]
    if control_tokens is not None:
        matches += [("control_token", match) for match in control_tokens.finditer(text)]
    taken: list[Found] = []  # in the order of the text
    for kind, match in matches:
        start, end = match.span()
        at = bisect_right(taken, start, key=lambda one: one.start)
        is_free = (at == 0 or taken[at - 1].end <= start) and (at == len(taken) or end <= taken[at].start)
        if is_free and _holds(kind, match.group()):
            taken.insert(at, Found(kind, start, end))
    return taken


def any_of(tokens: Iterable[str]) -> re.Pattern[str] | None:
    """One pattern for all of a tokenizer's control tokens; None where it has none."""
    longest_first = sorted({token for token in tokens if token}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


def masked(text: str, found: list[Found]) -> str:
    """`text` with a placeholder of its kind in each one's place."""
    return "".join(_replaced(text, found, lambda one: PLACEHOLDERS[one.kind]))


def covered(text: str) -> str:
    """`text` of the same length with every character of personal data hidden, for showing."""
    return "".join(_replaced(text, find(text), lambda one: "•" * (one.end - one.start)))


def _replaced(text: str, found: list[Found], by: Callable[[Found], str]) -> Iterator[str]:
    at = 0
    for one in found:
        yield text[at : one.start]
        yield by(one)
        at = one.end
    yield text[at:]


def _holds(kind: Kind, value: str) -> bool:
    digits = [int(c) for c in value if c.isdigit()]
    if kind == "my_number":
        return any(digits) and check_digit(digits[:11]) == digits[11]
    if kind == "card":
        return 13 <= len(digits) <= 19 and bool(_ISSUER.match("".join(map(str, digits)))) and luhn(digits)
    if kind == "phone":
        national = len(digits) - 2 + 1 if value.startswith("+81") else len(digits)
        return national in (10, 11)
    return True


def check_digit(first: list[int]) -> int:
    """The twelfth digit of an Individual Number, from its first eleven (ordinance 85 of 2014, article 5)."""
    rest = sum(digit * weight for digit, weight in zip(first, (6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2), strict=True)) % 11
    return 0 if rest <= 1 else 11 - rest


def luhn(digits: list[int]) -> bool:
    """The check of ISO/IEC 7812-1, annex B."""
    doubled = [digit * 2 - 9 * (digit > 4) if n % 2 else digit for n, digit in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0
