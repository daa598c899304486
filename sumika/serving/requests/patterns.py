"""Regular expressions inside a client's JSON schema: those whose automaton stays small, whatever dialect they are in."""

from __future__ import annotations

import re

from sumika.serving.requests.problems import refused

_MAX_LENGTH = 512
# At once (xgrammar 0.2.8 fails on more), and of what repeats itself.
_MAX_ONCE = 128
_MAX_REPEATS = 1_000
# Escapes and classes hold no operator; a quantifier is one of * + ? {n} {n,} {n,m}.
_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?[<=!:#P]*|[()]|[*+?]|\{(\d+)(,?)(\d*)\}|.", re.DOTALL)
_LOOKS = ("(?=", "(?!", "(?<", "(?P", "(?#")


def check_pattern(pattern: str) -> None:
    """Refuse what multiplies: a repetition of a repetition, look-around, back references.

    Raises:
        PydanticCustomError: `schema_refused`.
    """
    if len(pattern) > _MAX_LENGTH:
        raise _refused(f"it is longer than {_MAX_LENGTH} characters", f"{_MAX_LENGTH} 文字を超えています")
    # For each open group, and for the last thing that ended: how often it may repeat something inside.
    open_groups: list[int] = [1]
    last = 1
    for token in _TOKEN.finditer(pattern):
        text = token.group()
        if text.startswith(_LOOKS) or re.fullmatch(r"\\[1-9k]", text):
            raise _refused("look-around and references are not taken", "先読み・後読み・後方参照は使えません")
        if text.startswith("("):
            open_groups.append(1)
        elif text == ")":
            last = open_groups.pop() if len(open_groups) > 1 else 1
            open_groups[-1] = max(open_groups[-1], last)
        elif (repeats := _repeats(token)) is not None:
            if repeats * last > _MAX_REPEATS:
                raise _refused("it repeats what repeats itself, or too often", "繰り返しの入れ子、または回数が多すぎます")
            last *= repeats
            open_groups[-1] = max(open_groups[-1], last)
        else:
            last = 1


def _repeats(token: re.Match[str]) -> int | None:
    """How often a quantifier repeats; one without an end counts so that a second one over it is too much."""
    text = token.group()
    if text == "?":
        return 1
    if text in "*+":
        return _MAX_REPEATS // 2 + 1
    if token.group(1) is None:
        return None
    least, comma, most = int(token.group(1)), token.group(2), token.group(3)
    if max(least, int(most or 0)) > _MAX_ONCE:
        raise _refused(f"it repeats something more than {_MAX_ONCE} times", f"繰り返しの回数が {_MAX_ONCE} を超えています")
    return _MAX_REPEATS // 2 + 1 if comma and not most else max(int(most) if most else least, 1)


def _refused(en: str, ja: str) -> Exception:
    return refused(
        "schema_refused", f"a pattern in this JSON schema is not taken: {en}.", f"スキーマの pattern は使えません: {ja}。"
    )
