"""Which encoding a text file is in: decided by strictly decoding all of it, never by its head, and told in the report."""

from __future__ import annotations

import codecs
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from sumika.finetune.data.bounds import LARGEST_JSON, LARGEST_LINE, too_large_json, too_long_line
from sumika.finetune.data.problems import DataError
from sumika.finetune.data.settings import Encoding

_CHUNK = 2**20
MOST_BYTES_OF_CHARACTER = 4  # in UTF-8 and UTF-16
# The codec that reads each: cp932 and never shift_jis, which lacks ①, 髙 and ～.
CODECS = {"utf-8": "utf-8-sig", "cp932": "cp932", "euc-jp": "euc_jp", "utf-16": "utf-16"}
# What Python's cp932 makes of the bytes 80, A0, FD, FE and FF, which Windows' code page does not define.
_NO_CP932 = re.compile("[\x80\xa0\uf8f0-\uf8f3]")
_KANA = re.compile("[ぁ-んァ-ヶ]")


@dataclass(frozen=True, slots=True)
class Decoded:
    """How a file is to be opened, and what it is. `name` is one of data.encoding's, `codec` is Python's."""

    name: str
    codec: str
    sha256: str
    bytes: int
    bom: bool


class _Attempt:
    """One strict decoding, fed in pieces, and the first byte at which it failed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._decoder = codecs.getincrementaldecoder(CODECS[name])()
        self._bytes = self._lines = 0
        self.failed: tuple[int, int] | None = None
        self.kana = 0

    def feed(self, chunk: bytes, final: bool = False) -> None:
        if self.failed:
            return
        pending = len(self._decoder.getstate()[0])
        try:
            text = self._decoder.decode(chunk, final)
        except UnicodeError as error:  # UTF-16 without its mark is not even a UnicodeDecodeError
            at = getattr(error, "start", pending) - pending
            self.failed = (self._bytes + at, self._lines + chunk[: max(at, 0)].count(b"\n") + 1)
            return
        if self.name == "cp932" and (odd := _NO_CP932.search(text)):
            self.failed = (self._bytes, self._lines + text[: odd.start()].count("\n") + 1)
        self.kana += len(_KANA.findall(text))
        self._bytes += len(chunk)
        self._lines += chunk.count(b"\n")


def look(path: Path, wanted: Encoding) -> Decoded:
    """Read the whole of `path`, in pieces, and say which encoding it is in. Only what is not in the likeliest is read again.

    Raises:
        DataError: it is not in the encoding `wanted`; with `auto`, it is in none of the four, or might be in two. A line is
            longer than one may be in any of them.
    """
    with path.open("rb") as file:
        head = file.read(4)
    wide = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    likely = wanted if wanted != "auto" else "utf-16" if wide else "utf-8"
    attempts, sha256, size, nul = _attempted(path, [likely], wide)
    if attempts[likely].failed or (wanted == "utf-16" and not wide):
        others, *_ = _attempted(path, [name for name in CODECS if name != likely], wide)
        attempts |= others
    name = _decide(wanted, attempts, head, nul)
    bom = head.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return Decoded(name, CODECS[name], sha256, size, bom)


def _attempted(path: Path, names: list[str], wide: bool) -> tuple[dict[str, _Attempt], str, int, bool]:
    """Each of the encodings tried on all of `path`; its SHA-256 and size, and whether it holds a NUL, behind which an
    encoding of bytes is read no further."""
    attempts = {name: _Attempt(name) for name in names}
    hasher, lines = hashlib.sha256(), _LineLength(path)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            lines.feed(chunk)
            hasher.update(chunk)
            if not wide and b"\0" in chunk:
                return attempts, "", 0, True
            for attempt in attempts.values():
                attempt.feed(chunk)
    for attempt in attempts.values():
        attempt.feed(b"", final=True)
    return attempts, hasher.hexdigest(), lines.bytes, False


class _LineLength:
    """Refuses a file at the first line that is longer than one may be, before gigabytes of it are decoded."""

    def __init__(self, path: Path) -> None:
        # JSON may stand on one line; it is read at once, and bounded as a whole.
        self._is_json = path.suffix.lower() == ".json"
        self.bytes = self._line = self._lines = 0

    def feed(self, chunk: bytes) -> None:
        self.bytes += len(chunk)
        if self._is_json:
            if self.bytes > LARGEST_JSON:
                raise too_large_json()
            return
        begins, ends = chunk.find(b"\n"), chunk.rfind(b"\n")
        self._line += len(chunk) if begins < 0 else begins
        if self._line > MOST_BYTES_OF_CHARACTER * LARGEST_LINE:
            raise too_long_line(self._lines + 1)
        if begins >= 0:  # a line within one piece can't be too long
            self._lines += chunk.count(b"\n")
            self._line = len(chunk) - ends - 1


def _decide(wanted: Encoding, attempts: dict[str, _Attempt], head: bytes, nul: bool) -> str:
    wide = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if head.startswith(codecs.BOM_UTF32_LE) or nul:
        raise DataError(
            "holds NUL bytes: it is binary, UTF-32, or UTF-16 without a byte order mark; save it as UTF-8",
            "NULバイトを含みます(バイナリ、UTF-32、またはBOMのないUTF-16)。UTF-8で保存し直してください",
        )
    if wanted == "auto":
        names = ["utf-16"] if wide else ["utf-8"] if not attempts["utf-8"].failed else ["cp932", "euc-jp"]
    else:
        names = [wanted]
    fitting = [name for name in names if not attempts[name].failed]
    if wanted == "utf-16" and not wide:
        fitting = []
    if len(fitting) == 2:
        likely = max(fitting, key=lambda name: attempts[name].kana)
        raise DataError(
            f"can be read as EUC-JP and as CP932 (Shift_JIS), with different text; set data.encoding to euc-jp or cp932 (by its kana, {likely} is likelier)",
            f"EUC-JPとしてもCP932(Shift_JIS)としても読め、文字が変わります。data.encoding に euc-jp か cp932 を指定してください(かなの数からは {likely} と思われます)",
        )
    if not fitting:
        raise _undecodable(wanted, attempts, names)
    return fitting[0]


def _undecodable(wanted: str, attempts: dict[str, _Attempt], tried: list[str]) -> DataError:
    if wanted == "auto":
        byte, line = attempts["utf-8"].failed or (0, 1)
        if tried == ["utf-16"]:
            byte, line = attempts["utf-16"].failed or (0, 1)
        return DataError(
            f"byte {byte} is valid in none of UTF-8, CP932 (Shift_JIS), EUC-JP and UTF-16; save the file as UTF-8",
            f"{byte} バイト目がUTF-8、CP932(Shift_JIS)、EUC-JP、UTF-16のいずれでも読めません。UTF-8で保存し直してください",
            line=line,
        )
    byte, line = attempts[wanted].failed or (0, 1)
    others = [name for name, attempt in attempts.items() if name not in (wanted, "utf-16") and not attempt.failed]
    hint_en = f"it looks like {' or '.join(others)}: set data.encoding to that, or to auto" if others else "save it as UTF-8"
    hint_ja = f"{' または '.join(others)} と思われます。data.encoding をそれか auto にしてください" if others else "UTF-8で保存し直してください"  # fmt: skip
    return DataError(
        f"byte {byte} is not {wanted}; {hint_en}", f"{byte} バイト目が {wanted} ではありません。{hint_ja}", line=line
    )


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
