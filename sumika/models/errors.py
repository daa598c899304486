"""The one exception a person may meet: what happened and what to do next, in English and Japanese."""

from __future__ import annotations

from typing import Literal

Language = Literal["en", "ja"]


class SumikaError(Exception):
    """An expected failure.

    `code` is stable and for machines; `en` and `ja` are one or two sentences for the person who meets it.
    `status` is the HTTP status the gateway answers with; `retry_after` (seconds) goes into its header.
    """

    def __init__(
        self,
        code: str,
        en: str,
        ja: str,
        *,
        status: int = 400,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(en)
        self.code = code
        self.en = en
        self.ja = ja
        self.status = status
        self.param = param
        self.retry_after = retry_after

    def text(self, language: Language) -> str:
        return self.ja if language == "ja" else self.en


def not_found(what_en: str, what_ja: str, name: str, next_en: str, next_ja: str) -> SumikaError:
    return SumikaError(
        "not_found",
        f"There is no {what_en} '{quoted(name)}'. {next_en}",
        f"{what_ja}「{quoted(name)}」はありません。{next_ja}",
        status=404,
    )


def quoted(text: str, limit: int = 200) -> str:
    """`text` made safe to repeat in a message: control characters escaped, cut at `limit` characters."""
    escaped = text if text.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return escaped if len(escaped) <= limit else escaped[: limit - 1] + "…"
