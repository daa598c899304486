"""What a request says its body is."""

from __future__ import annotations

from collections.abc import Iterable
from email.message import Message

from sumika.models.errors import SumikaError

_UTF_8 = ("utf-8", "utf8", "us-ascii")


def media_type(headers: Iterable[tuple[bytes, bytes]]) -> Message:
    """`get_content_type()` and its parameters; `text/plain` where none is named, or two are."""
    given = [value for name, value in headers if name == b"content-type"]
    message = Message()
    message["content-type"] = given[0].decode("latin-1") if len(given) == 1 else ""
    return message


def check_json(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raises SumikaError `unsupported_type` (415), where the body is not said to be JSON in UTF-8."""
    given = list(headers)
    if (b"content-type", b"application/json") in given and sum(name == b"content-type" for name, _ in given) == 1:
        return  # nearly all
    said = media_type(given)
    if said.get_content_type() != "application/json" or said.get_content_charset("utf-8") not in _UTF_8:
        raise SumikaError(
            "unsupported_type", "Send JSON in UTF-8, with 'Content-Type: application/json'.",
            "「Content-Type: application/json」を付けて、UTF-8 の JSON を送ってください。", status=415,
        )  # fmt: skip
