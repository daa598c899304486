"""What a verification found: the first bad row, and everything an auditor asks next."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from sumika.models.errors import Language

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


@dataclass(frozen=True, slots=True)
class Findings:
    """`unsigned`: rows since the last checkpoint, which only the hashes vouch for. `late_s`: the longest that a row was
    without a checkpoint. `bad_checkpoint`: the first line of that file that is no good."""

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

    @property
    def ok(self) -> bool:
        return self.bad is None and self.bad_checkpoint is None
