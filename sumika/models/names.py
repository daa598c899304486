"""Names of models and aliases, and references to immutable versions (`name@N`)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sumika.models.errors import SumikaError, quoted

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
_NUMBER = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
# Names that would read as something else: a version tag that moves, or a device file on a shared Windows folder.
_RESERVED = frozenset({"latest", "con", "prn", "aux", "nul"})


def check_name(name: str) -> str:
    """`name` itself, if it may name a model or an alias.

    Raises:
        SumikaError: `bad_name`, for anything but 1-64 of a-z 0-9 . _ - that starts with a letter or digit.
    """
    if not NAME.fullmatch(name) or name.endswith(".") or ".." in name or name in _RESERVED:
        raise SumikaError(
            "bad_name",
            f"'{quoted(name)}' can't be a name. Use 1 to 64 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit.",
            f"「{quoted(name)}」は名前に使えません。英小文字・数字・「.」「_」「-」で1〜64文字、先頭は英小文字か数字にしてください。",
        )
    return name


@dataclass(frozen=True, slots=True, order=True)
class VersionRef:
    """One immutable version of a model; vLLM is told this very text as a model or LoRA name."""

    name: str
    number: int

    def __str__(self) -> str:
        return f"{self.name}@{self.number}"

    @classmethod
    def parse(cls, text: str) -> VersionRef:
        """Read `name@N`.

        Raises:
            SumikaError: `bad_version`, when `text` is anything else.
        """
        name, at, number = text.partition("@")
        if not at or not _NUMBER.fullmatch(number):
            raise SumikaError(
                "bad_version",
                f"'{quoted(text)}' names no version. Write NAME@N, for example sakura-faq@2 ('sumika models list' shows them).",
                f"「{quoted(text)}」は版の指定になっていません。sakura-faq@2 のように NAME@N と書いてください(一覧: sumika models list)。",
            )
        return cls(check_name(name), int(number))
