"""Whether bytes that come piece by piece are JSONL in UTF-8, as far as that shows without reading their JSON."""

from __future__ import annotations

import codecs

from sumika.models.errors import SumikaError

BOM = codecs.BOM_UTF8


class LineCheck:
    """`feed` it every byte in order, then `end`. A byte order mark, and a last line without its end, are as good as none."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._decoder = codecs.getincrementaldecoder("utf-8")("strict")
        self._line = 1
        self._length = 0
        self._first = b""
        self._filled = False

    def feed(self, data: bytes) -> None:
        """Raises SumikaError `not_utf8`, `line_too_long`, naming the line."""
        if len(self._first) < 4:
            self._first += data[: 4 - len(self._first)]
        self._decode(data)
        self._filled = self._filled or bool(data.removeprefix(BOM).strip())
        first, *rest = data.split(b"\n")
        self._length += len(first)
        self._check()
        for piece in rest:
            self._line += 1
            self._length = len(piece)
            self._check()

    def end(self) -> None:
        """Raises SumikaError `not_utf8`; `empty_file`."""
        self._decode(b"", final=True)
        if not self._filled:
            raise SumikaError("empty_file", "The file is empty.", "ファイルが空です。", param="file")

    def _check(self) -> None:
        if self._length > self._longest:
            raise SumikaError(
                "line_too_long",
                f"Line {self._line} is longer than {self._longest:,} bytes; a line is one JSON object, and a request has this limit too.",
                f"{self._line} 行目が {self._longest:,} バイトを超えています。1行に1つのJSONオブジェクトを書いてください。",
                param="file",
            )

    def _decode(self, data: bytes, *, final: bool = False) -> None:
        try:
            self._decoder.decode(data, final)
        except UnicodeDecodeError as error:
            # `error.object` is what was left over before, and `data`.
            begun = max(0, error.start - (len(error.object) - len(data)))
            raise _not_utf8(self._line + data.count(b"\n", 0, begun), self._first) from None
        if b"\0" in data:
            raise _not_utf8(
                self._line + data.count(b"\n", 0, data.index(b"\0")), self._first, "it holds NUL bytes", "NUL文字があります"
            )


def _not_utf8(line: int, first: bytes, en: str = "it is not UTF-8", ja: str = "UTF-8ではありません") -> SumikaError:
    wide = first[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    other, other_ja = ("UTF-16", "UTF-16") if wide else ("Shift_JIS (CP932)", "Shift_JIS(CP932)")
    return SumikaError(
        "not_utf8",
        f"Line {line} can't be read: {en}. Save the file as UTF-8 and send it again; it may be {other} now.",
        f"{line} 行目を読み取れません: {ja}。{other_ja}で保存されている可能性があります。UTF-8で保存し直してください。",
        param="file",
    )
