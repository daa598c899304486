"""Sizes of a chunked body's chunks, looked at beside the parser: it takes any that 64 bits hold, and then waits for all of it."""

from __future__ import annotations

import re

# Four GiB: more than any body that is taken.
_MOST_DIGITS = 8
_SIZE = re.compile(rb"0*([0-9A-Fa-f]*)")
_LINE_END = b"\r\n"


class ChunkSizes:
    """Of one body, fed as it comes. What is no chunked body at all is the parser's to refuse."""

    def __init__(self) -> None:
        self._left = 0  # of the chunk that is being read, and the line end after it
        self._digits = bytearray()
        self._in_digits, self._over = True, False

    def fit(self, data: bytes) -> bool:
        """Whether no chunk that begins in `data` is too long."""
        at = 0
        while at < len(data) and not self._over:
            if self._left:
                taken = min(self._left, len(data) - at)
                self._left -= taken
                at += taken
                continue
            end = data.find(b"\n", at)
            self._read(data[at:] if end < 0 else data[at:end])
            if len(self._significant) > _MOST_DIGITS:
                return False
            if end < 0:
                return True
            self._begin()
            at = end + 1
        return True

    @property
    def _significant(self) -> bytes:
        found = _SIZE.match(self._digits)
        return found[1] if found else b""

    def _read(self, line: bytes) -> None:
        """A part of a size's line, without the extension that may follow."""
        if self._in_digits:
            digits, mark, _ = line.partition(b";")
            self._digits += digits[: 64 - len(self._digits)]
            self._in_digits = not mark

    def _begin(self) -> None:
        """A chunk; the last one has no bytes, and what follows it is no chunk."""
        size = int(self._significant or b"0", 16)
        self._left = size + len(_LINE_END) if size else 0
        self._over = not size
        self._digits.clear()
        self._in_digits = True
