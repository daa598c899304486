"""What a verification found: the first bad row, and everything an auditor asks next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from sumika.models.errors import Language, quoted

Kind = Literal["changed", "rewritten", "missing", "extra", "content", "head"]

_WHAT: dict[Kind, tuple[str, str]] = {
    "changed": ("is not as it was written", "が記録時の内容と異なります"),
    "missing": ("is missing", "がありません"),
    "rewritten": ("is another than was signed, or follows another", "が署名時と異なるか、直前の行とつながりません"),
    "extra": ("stands where rows were pruned or none may be", "は削除済みまたは存在しないはずの位置にあります"),
    "content": ("has not the sealed content it was written with", "の暗号化された内容が記録時と異なります"),
    "head": ("is the last one, but the log's own end mark says otherwise", "が最終行ですが、ログの末尾の記録と一致しません"),
}


@dataclass(frozen=True, slots=True)
class BadRow:
    """The first row that is not as it was written, and how that shows. Where its hash was computed anew and no checkpoint
    was signed right after it, it is one of the rows `seq` to `to`."""

    seq: int
    kind: Kind
    to: int

    def text(self, language: Language) -> str:
        en, ja = _WHAT[self.kind]
        if self.to == self.seq:
            return f"行 {self.seq} {ja}。" if language == "ja" else f"Row {self.seq} {en}."
        return (
            f"行 {self.seq}〜{self.to} のいずれか{ja}。" if language == "ja" else f"One of the rows {self.seq} to {self.to} {en}."
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"en": self.text("en"), "ja": self.text("ja")}


@dataclass(frozen=True, slots=True)
class Pruned:
    """Rows up to `last` that are gone, by whom and when, as the log itself says (`rows` and `before` as they stand in it)."""

    last: int
    rows: Any
    before: Any
    at: str
    actor: str
    contents_only: bool


What = Literal["unknown", "missing", "changed"]

_UNEXPLAINED: dict[What, tuple[str, str]] = {
    "unknown": (
        "is in the database and no row of the log says who made it",
        "がデータベースにありますが、作成した記録がありません",
    ),
    "missing": ("is in the log and not in the database", "が記録にはありますが、データベースにありません"),
    "changed": ("is not as the log says", "が記録の内容と異なります"),
}
_TABLES = {"keys": ("Key", "APIキー"), "aliases": ("Alias", "エイリアス"), "versions": ("Version", "バージョン")}


@dataclass(frozen=True, slots=True)
class Unexplained:
    """A row of `table` that nothing in the log explains; `fields`: which of it, where it was changed."""

    table: str
    id: str
    what: What
    fields: tuple[str, ...] = ()

    def text(self, language: Language) -> str:
        (en, ja), (noun_en, noun_ja) = _UNEXPLAINED[self.what], _TABLES[self.table]
        fields = ", ".join(self.fields)
        if language == "ja":
            return f"{noun_ja} {quoted(self.id)} {ja}{f'({fields})' if fields else ''}。"
        return f"{noun_en} {quoted(self.id)} {en}{f' ({fields})' if fields else ''}."

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"en": self.text("en"), "ja": self.text("ja")}


@dataclass(frozen=True, slots=True)
class Witnessed:
    """What a witness's file says: the hashes that each row may have by it. `lines`: good ones, `ignored`: others."""

    hashes: Mapping[int, frozenset[str]] = field(default_factory=dict)
    lines: int = 0
    ignored: int = 0

    @property
    def last(self) -> int:
        return max(self.hashes, default=0)


@dataclass(frozen=True, slots=True)
class Findings:
    """`unsigned`: rows since the last checkpoint, which only the hashes vouch for. `late_s`: the longest that a row was
    without a checkpoint. `bad_checkpoint`: the first line of that file that is no good, or missing. `witness`: how many good lines the
    witness has, None where none was read; `witnessed`: the last row it knows. `adopted`: keys, aliases and versions that the log knows only
    because an upgrade found them there. `unexplained`: what the tables hold otherwise than the log says."""

    first: int
    last: int
    rows: int
    contents: int
    checkpoints: int
    unsigned: int
    late_s: int
    signers: tuple[str, ...]
    pruned: tuple[Pruned, ...] = ()
    bad: BadRow | None = None
    bad_checkpoint: int | None = None
    witness: int | None = None
    witnessed: int = 0
    adopted: int = 0
    unexplained: tuple[Unexplained, ...] = ()

    @property
    def ok(self) -> bool:
        return self.bad is None and self.bad_checkpoint is None and self.witness != 0 and not self.unexplained

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        bad = self.bad.as_dict() if self.bad else None
        return asdict(self) | {"ok": self.ok, "bad": bad, "unexplained": [one.as_dict() for one in self.unexplained]}
