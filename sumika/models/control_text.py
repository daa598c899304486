"""Finds control tokens spelled in a text, and parts them so that they stay text.

A tokenizer may normalise a text before it looks for its tokens: full-width letters become narrow, marks that can't be seen
vanish. So tokens are looked for in what is left of a text when all of that is done to it: its folded form.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, chain, groupby, islice

from sumika.models.template_markers import Replaced

_PLAIN = re.compile(r"[\t\n\r -~]*")
# Where compatible forms of other characters lie, and marks that some normaliser leaves out: the basic plane, musical,
# mathematical and enclosed symbols, tags and variation selectors.
_LOOKED_AT = (range(0x1_0000), range(0x1_D100, 0x1_D800), range(0x1_F100, 0x1_F200), range(0xE_0000, 0xE_0200))
# Marks above and below, joiners, directions, controls other than white space, private use.
_LEFT_OUT = ("Mn", "Mc", "Me", "Cf", "Cc", "Co")
_LEFT_OUT_TOO = "\ufffd\U000f0000-\U0010ffff"
_SPACES = "\t\n\r"
# What SentencePiece writes for a space.
_SPACE_MARK = "\u2581"
# How deep common beginnings of tokens are written as groups; each level is one of Python's own when they are compiled.
_MOST_LEVELS = 12
LONGEST = 256
# Who spells so many in one text gets a space behind everything that could begin one, which takes a hundredth of the time.
_MANY = 1_000
# Two characters with a space between them are no token, but one could be left.
SHORTEST = 3


class ControlText:
    """The control tokens `tokens`, however a text may spell them. `0` in a token stands for any number; with `any_case`, small
    letters and large ones are the same. `filters`: what the chat template replaces in a text, run by run."""

    def __init__(self, tokens: Iterable[str], *, any_case: bool = False, filters: Iterable[Replaced] = ()) -> None:
        self._any_case = any_case
        folded = sorted({token for token in map(self._fold, tokens) if len(token) >= SHORTEST}, reverse=True)
        starts = {start for token in folded for start in ("0123456789" if token[0] == "0" else _alike(token[0]))}
        self._start = re.compile(f"[{re.escape(''.join(sorted(starts)))}]" if starts else "(?!)")
        self._spaced = {ord(start): " ".join([*(_folded(start) if len(_folded(start)) > 1 else start), ""]) for start in starts}
        self._tokens = re.compile(_pattern([_parts(token) for token in folded]) or "(?!)")
        signs = {*"0123456789", *chain(*folded)}
        # What writes a sign that no token has makes none.
        self._filters = [run for run in filters if any(old and signs.issuperset(self._fold(new)) for old, new in run)]

    def search(self, text: str) -> bool:
        """Whether `text` spells one of them, or will when the template has replaced what it replaces."""
        return self._spells(text) or self._comes_to_spell(text)

    def spans(self, tail: str, text: str) -> bool:
        """Whether `text` ends a token that begins in `tail`, the `tail` of what stands before it."""
        return bool(tail) and self.search(tail + self._folded_part(text, lambda length: text[:length]))

    def tail(self, text: str) -> str:
        """As much of the end of `text` as could begin a token."""
        end = self._folded_part(text, lambda length: text[-length:])[-LONGEST:]
        return end if self._start.search(end) else ""

    def parted(self, text: str) -> str:
        """`text` with a space in each of them: `<|im_end|>` becomes `< |im_end|>`, and the label `USER:` becomes `USER :`.

        It is looked through again until none is found, since one token may hold another.
        """
        while self._start.search(text) and (found := list(islice(self._tokens.finditer(self._fold(text)), _MANY))):
            text = "".join(_with_spaces(text, found)) if len(found) < _MANY else text.translate(self._spaced)
        if not self._comes_to_spell(text):
            return text
        lines = text.splitlines(keepends=True)
        text = "".join(self._kept_from_filters(line) if self._comes_to_spell(line) else line for line in lines)
        return self._kept_from_filters(text) if self._comes_to_spell(text) else text

    def _spells(self, text: str) -> bool:
        return self._start.search(text) is not None and self._tokens.search(self._fold(text)) is not None

    def _comes_to_spell(self, text: str) -> bool:
        return any(self._spells(later) for run in self._filters for later in _steps(text, run))

    def _kept_from_filters(self, text: str) -> str:
        """With a space behind all that could begin a token; if a filter would write one even so, in all that it replaces."""
        text = text.translate(self._spaced)
        for run in self._filters:
            if any(map(self._spells, _steps(text, run))):
                for old, _ in run:
                    text = text.replace(old, f"{old[0]} {old[1:]}") if old.strip() else text
        return text

    def _folded_part(self, text: str, part: Callable[[int], str]) -> str:
        """The folded form of a `part` of `text` in which any token has room, however much of it can't be seen."""
        length = 4 * LONGEST
        while len(folded := self._fold(part(length))) < LONGEST and length < len(text):
            length *= 2
        return folded

    def _fold(self, text: str) -> str:
        folded = text if _is_plain(text) else _folded(text)
        return folded.lower() if self._any_case else folded


def _steps(text: str, run: Replaced) -> Iterator[str]:
    """What `text` is after each filter of a run that changes it."""
    for old, new in run:
        if old and old in text:
            text = text.replace(old, new)
            yield text


def _with_spaces(text: str, found: Sequence[re.Match[str]]) -> Iterator[str]:
    """The pieces of `text`, of whose folded form the tokens were `found`."""
    ends = range(1, len(text) + 1) if _is_plain(text) else list(accumulate(map(_folded_length, text)))
    done = 0
    for token in found:
        inside = token.end() - 1 if token[0].endswith(":") else token.start() + 1
        last = bisect_left(ends, inside)  # the character whose folded form reaches as far
        if ends[last] < token.end():
            yield f"{text[done : last + 1]} "
        else:  # one character folds to all that is left of the token (U+2026 to three dots), so it is written out
            yield text[done:last] + " ".join(_folded(text[last]))
        done = last + 1
    yield text[done:]


def _is_plain(text: str) -> bool:
    return _PLAIN.fullmatch(text) is not None


def _folded(text: str) -> str:
    return _left_out().sub("", unicodedata.normalize("NFKD", text)).replace(_SPACE_MARK, " ")


@lru_cache(maxsize=65_536)
def _folded_length(character: str) -> int:
    return len(_folded(character))


@lru_cache(maxsize=1)
def _left_out() -> re.Pattern[str]:
    codes = [code for code in range(0x11_0000) if unicodedata.category(chr(code)) in _LEFT_OUT and chr(code) not in _SPACES]
    runs = ([code for _, code in run] for _, run in groupby(enumerate(codes), lambda pair: pair[1] - pair[0]))
    return re.compile(
        f"[{''.join(f'{chr(run[0])}-{chr(run[-1])}'.replace(chr(92), chr(92) * 2) for run in runs)}{_LEFT_OUT_TOO}]+"
    )


def _alike(character: str) -> str:
    """The characters whose folded form holds `character`, in either case."""
    return _alike_by_part().get(character, character)


@lru_cache(maxsize=1)
def _alike_by_part() -> dict[str, str]:
    found: defaultdict[str, str] = defaultdict(str)
    for character in map(chr, chain(*_LOOKED_AT)):
        for part in set(_folded(character)) | set(_folded(character).lower()):
            found[part] += character
    return found


def _pattern(tokens: Sequence[tuple[str, ...]], levels: int = _MOST_LEVELS) -> str:
    """One expression for all of them, each in its parts. What begins alike stands together, so that a text of beginnings costs
    little."""
    by_first: defaultdict[tuple[str, ...], list[tuple[str, ...]]] = defaultdict(list)
    for token in tokens:
        by_first[token[:1]].append(token[1:])
    if len(tokens) == 1 or not levels:
        return "|".join(map("".join, tokens))
    return "|".join(first[0] + f"(?:{_pattern(rests, levels - 1)})" if first else "" for first, rests in by_first.items())


def _parts(token: str) -> tuple[str, ...]:
    return tuple(map(_part, f" {token}", token))


def _part(before: str, character: str) -> str:
    """A heading may have lost its space, or gained one: some tokenizers make a space of what can't be seen, and one of several."""
    if character == "0":
        return "[0-9]+"
    return " *" if before + character == "# " else re.escape(character)
