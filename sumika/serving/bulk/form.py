"""The form of an upload (RFC 7578), read as it comes: one file, and a few short fields. Everything else ends it at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from sumika.models.errors import SumikaError, quoted

_FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")
_FILE = "file"
_LONGEST_FIELD = 256
_MOST_HEADERS = 8
_LONGEST_HEADER = 4096
# RFC 2046: at most 70 characters.
_LONGEST_BOUNDARY = 70
_PLAIN = (b"binary", b"7bit", b"8bit")


def boundary(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """What parts the form of a request with these headers.

    Raises:
        SumikaError: `unsupported_type`, `unsupported_encoding` (415); `bad_form`.
    """
    kinds = [value for name, value in headers if name == b"content-type"]
    kind, options = parse_options_header(kinds[0]) if len(kinds) == 1 else (b"", {})
    if kind != b"multipart/form-data":
        raise SumikaError(
            "unsupported_type", "Send a form with the file: 'Content-Type: multipart/form-data', as OpenAI's clients do.",
            "「Content-Type: multipart/form-data」のフォームでファイルを送ってください(OpenAIクライアントと同じ形式です)。", status=415,
        )  # fmt: skip
    if any(name == b"content-encoding" and value.strip().lower() not in (b"", b"identity") for name, value in headers):
        raise SumikaError(
            "unsupported_encoding", "Compressed uploads are not taken; send the file as it is.",
            "圧縮されたアップロードは受け付けません。ファイルをそのまま送ってください。", status=415,
        )  # fmt: skip
    found = options.get(b"boundary", b"")
    if not 0 < len(found) <= _LONGEST_BOUNDARY:
        raise bad_form(
            "its Content-Type names no boundary of 1 to 70 characters", "Content-Type に boundary(1〜70文字)がありません"
        )
    return found


class Form:
    """`feed` it the body; the file's bytes go to `sink`, the rest is in `fields` and `filename` once `end` was called."""

    def __init__(self, boundary: bytes, sink: Callable[[bytes], None]) -> None:
        self._sink = sink
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begins, "on_header_field": self._header_name, "on_header_value": self._header_value,
                "on_header_end": self._header_ends, "on_headers_finished": self._headers_end, "on_part_data": self._data,
                "on_part_end": self._part_ends, "on_end": self._all_ends,
            },
            max_header_count=_MOST_HEADERS,
            max_header_size=_LONGEST_HEADER,
        )  # fmt: skip
        self._name = self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._part = ""
        self._field = b""
        self._whole = False
        self.fields: dict[str, str] = {}
        self.filename: str | None = None

    def feed(self, data: bytes) -> None:
        """Raises SumikaError `bad_form`, `unknown_field`, `repeated_field`, and what the sink raises."""
        try:
            self._parser.write(data)
        except FormParserError:
            raise bad_form("its parts can't be told apart", "パートの区切りを読み取れません") from None

    def end(self) -> None:
        """Raises SumikaError `bad_form`, `missing_field`."""
        if not self._whole:
            raise bad_form("it ends before its last boundary", "最後の区切りの前で終わっています")
        for name in (_FILE, "purpose"):
            if name not in self.fields and (name != _FILE or self.filename is None):
                raise SumikaError(
                    "missing_field", f"The form has no part '{name}'; it needs 'file' and 'purpose'.",
                    f"フォームに「{name}」がありません。file と purpose が必要です。", param=name,
                )  # fmt: skip

    def _part_begins(self) -> None:
        self._headers, self._part, self._field = {}, "", b""

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_ends(self) -> None:
        name = self._name.lower()
        if name in self._headers:
            raise bad_form("a part gives a header twice", "同じヘッダーが2回あります")
        self._headers[name] = self._value
        self._name = self._value = b""

    def _headers_end(self) -> None:
        kind, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if kind != b"form-data" or b"name" not in options:
            raise bad_form("a part has no name", "名前のないパートがあります")
        if self._headers.get(b"content-transfer-encoding", b"binary").strip().lower() not in _PLAIN:
            raise bad_form("a part is encoded; send bytes as they are", "符号化されたパートがあります。そのまま送ってください")
        name = options[b"name"].decode(errors="replace")
        if name in self.fields or (name == _FILE and self.filename is not None):
            raise SumikaError(
                "repeated_field", f"'{name}' is given twice; send one file with one purpose.",
                f"「{name}」が2回指定されています。1つだけにしてください。", param=name,
            )  # fmt: skip
        if name == _FILE:
            self.filename = _label(options.get(b"filename", b""))
        elif name not in _FIELDS or b"filename" in options:
            shown = quoted(name, 64)
            raise SumikaError("unknown_field", f"{shown}: unknown field.", f"{shown}: 未対応の項目です。", param=shown)
        self._part = name

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._part == _FILE:
            self._sink(data[start:end])
            return
        self._field += data[start:end]
        if len(self._field) > _LONGEST_FIELD:
            raise bad_form(
                f"'{self._part}' is longer than {_LONGEST_FIELD} bytes",
                f"「{self._part}」が {_LONGEST_FIELD} バイトを超えています",
            )

    def _part_ends(self) -> None:
        if self._part != _FILE:
            self.fields[self._part] = self._field.decode(errors="replace")

    def _all_ends(self) -> None:
        self._whole = True


def bad_form(en: str, ja: str) -> SumikaError:
    return SumikaError("bad_form", f"The form can't be read: {en}.", f"フォームを読み取れません: {ja}。")


def _label(name: bytes) -> str:
    """What the client calls its file, without any folder; for people to read, and for nothing else."""
    text = name.decode(errors="replace").replace("\\", "/")
    return text.rpartition("/")[2] or "upload.jsonl"
