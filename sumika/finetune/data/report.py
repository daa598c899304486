"""What the data is: counts for the manifest, and what a person should look at before a night of training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sumika.finetune.data.histogram import Histogram, quantile
from sumika.finetune.data.reading import FileRead
from sumika.finetune.data.samples import Sample
from sumika.finetune.data.settings import Data
from sumika.models.errors import Language


class Said(NamedTuple):
    en: str
    ja: str

    def text(self, language: Language) -> str:
        return self.ja if language == "ja" else self.en


@dataclass(frozen=True, slots=True)
class SourceCount:
    """`rows` could be trained on; an epoch shows them `seen` times in all; `left_out` of them it never shows."""

    path: str
    weight: float
    rows: int
    seen: int
    left_out: int


@dataclass(frozen=True, slots=True)
class Pair:
    """Two places where the same or nearly the same stands."""

    one: str
    other: str


@dataclass(slots=True)
class Report:
    """`lengths` and `trained` are tokens by row, of the rows kept, before weights."""

    job: str
    base: str
    settings: Data
    limit: int | None
    files: list[FileRead] = field(default_factory=list)
    held_out_files: list[FileRead] = field(default_factory=list)
    sources: list[SourceCount] = field(default_factory=list)
    read: int = 0
    refused: int = 0
    held_out: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    truncated: int = 0
    tokens_cut: int = 0
    normalized: int = 0
    lengths: list[int] = field(default_factory=list)
    trained: list[int] = field(default_factory=list)
    languages: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    pii: dict[str, dict[str, Any]] = field(default_factory=dict)
    distinct: int = 0
    duplicates: Counter[str] = field(default_factory=Counter)
    leaks: Counter[str] = field(default_factory=Counter)
    pairs: dict[str, list[Pair]] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)

    @property
    def kept(self) -> int:
        return len(self.lengths)

    @property
    def seen(self) -> int:
        """Rows an epoch shows, counted as often as it shows them."""
        return sum(source.seen for source in self.sources)

    def as_dict(self) -> dict[str, Any]:
        """Counts alone: no row's text, no personal data, nothing of this machine but the files' names."""
        return {
            "rows": {
                "read": self.read, "kept": self.kept, "refused": self.refused, "dropped": dict(self.dropped),
                "truncated": self.truncated, "tokens_cut": self.tokens_cut, "normalized": self.normalized, "distinct": self.distinct,
                "seen_per_epoch": self.seen, "held_out": self.held_out,
            },
            "tokens": self.tokens(),
            "sources": [{"weight": s.weight, "rows": s.rows, "seen_per_epoch": s.seen, "left_out": s.left_out} for s in self.sources],
            "files": [file.as_dict() for file in self.files],
            "held_out_files": [file.as_dict() for file in self.held_out_files],
            "duplicates": dict(self.duplicates), "leaks": dict(self.leaks), "languages": dict(self.languages),
            "forms": dict(self.forms), "pii": self.pii,
        }  # fmt: skip

    def tokens(self) -> dict[str, Any]:
        ordered = sorted(self.lengths)
        lengths, trained = self.length_histogram(), Histogram.of(self.trained)
        return {
            "total": sum(ordered), "trained": sum(self.trained), "limit": self.limit,
            "shortest": quantile(ordered, 0), "median": quantile(ordered, 0.5), "p95": quantile(ordered, 0.95), "longest": quantile(ordered, 1),
            "trained_least": min(self.trained, default=0), "trained_most": max(self.trained, default=0),
            "histogram": {"edges": lengths.edges, "rows": lengths.counts},
            "trained_histogram": {"edges": trained.edges, "rows": trained.counts},
        }  # fmt: skip

    def length_histogram(self) -> Histogram:
        return Histogram.of(self.lengths)

    def warnings(self) -> Iterator[Said]:
        """What does not stop the job and may still be a mistake."""
        yield from self._about_rows()
        yield from self._about_text()
        yield from self._about_files()

    def _about_rows(self) -> Iterator[Said]:
        if self.kept and self.distinct == 1:
            yield Said(
                "all rows hold the same record; nothing else can be learned",
                "すべての行が同じ内容です。ほかのことは学習できません",
            )
        if n := self.dropped["too_long"]:
            yield Said(
                f"{n:,} rows dropped: too long (data.too_long: drop)",
                f"{n:,} 行を除外しました: 長すぎるため (data.too_long: drop)",
            )
        if n := self.dropped["nothing_left"]:
            yield Said(
                f"{n:,} rows dropped: cut to fit, nothing to train was left",
                f"{n:,} 行を除外しました: 切り詰めると学習部分が残らないため",
            )
        if n := self.truncated:
            yield Said(
                f"{n:,} rows cut to fit, {self.tokens_cut:,} tokens lost",
                f"{n:,} 行を切り詰めました({self.tokens_cut:,} トークン減)",
            )
        if n := sum(source.left_out for source in self.sources):
            yield Said(
                f"{n:,} rows are never shown: their source's weight is below 1", f"{n:,} 行は重みが1未満のため学習に使われません"
            )
        if n := self.duplicates["exact"]:
            yield Said(
                f"{n:,} rows repeat an earlier one exactly; each repeat weighs more",
                f"{n:,} 行が前の行と同じ内容です(重複した分だけ強く学習されます)",
            )
        if n := self.duplicates["near"]:
            yield Said(f"{n:,} rows nearly repeat an earlier one", f"{n:,} 行が前の行とほぼ同じ内容です")
        if n := self.leaks["near"]:
            yield Said(
                f"{n:,} held-out questions are nearly ones trained on: the score will flatter",
                f"評価用の質問 {n:,} 件が学習データとほぼ同じです(評価が実際より良く出ます)",
            )

    def _about_text(self) -> Iterator[Said]:
        names = {"not_nfc": ("decomposed (NFD) characters", "分解された文字(NFD)"), "half_width_katakana": ("half-width katakana", "半角カタカナ"),
                 "full_width_alphanumerics": ("full-width letters or digits", "全角英数字"), "private_use": ("private-use characters (gaiji) that no model knows", "外字(私用領域)。モデルには読めません"),
                 "zero_width": ("zero-width characters", "見えない文字(ゼロ幅)")}  # fmt: skip
        for form, (en, ja) in names.items():
            if n := self.forms[form]:
                yield Said(f"{n:,} rows hold {en}", f"{n:,} 行に{ja}があります")
        if (wave := self.forms["wave_dash_301c"]) and (tilde := self.forms["full_width_tilde_ff5e"]):
            yield Said(f"〜 (U+301C, {wave:,} rows) and ～ (U+FF5E, {tilde:,} rows) look alike; to the model they are two characters",
                       f"〜(U+301C、{wave:,} 行)と ～(U+FF5E、{tilde:,} 行)が混在しています。モデルには別の文字です")  # fmt: skip
        for kind, count in self.pii.items():
            if count["found"] and count["action"] != "block":
                en, ja = (
                    ("replaced by a placeholder", "置き換えました")
                    if count["action"] == "mask"
                    else ("left as they are", "そのまま学習されます")
                )
                yield Said(f"{count['found']:,} × {kind} in {count['rows']:,} rows: {en} (data.pii.{kind}: {count['action']})",
                           f"{_KINDS_JA[kind]} {count['found']:,} 件({count['rows']:,} 行): {ja} (data.pii.{kind}: {count['action']})")  # fmt: skip

    def _about_files(self) -> Iterator[Said]:
        for file in (*self.files, *self.held_out_files):
            name = file.path.name
            if file.encoding in ("cp932", "euc-jp"):
                yield Said(
                    f"{name} was read as {file.encoding}; look at the samples",
                    f"{name} を {file.encoding} として読みました。サンプルを確認してください",
                )
            if n := file.disputed:
                yield Said(
                    f"{name}: {n:,} characters (～ － ∥ ￠ …) that other programs read from CP932 as 〜 − ‖ ¢",
                    f"{name}: ～ － ∥ ￠ などが {n:,} 文字あります(ほかのソフトでは 〜 − ‖ ¢ と読まれることがあります)",
                )
            if n := file.same_ids:
                yield Said(f"{name}: {n:,} rows have the id of an earlier one", f"{name}: {n:,} 行の id が前の行と同じです")


_KINDS_JA = {
    "card": "カード番号",
    "my_number": "個人番号",
    "phone": "電話番号",
    "email": "メールアドレス",
    "secret": "秘密情報(APIキーなど)",
    "control_token": "制御トークン",
}
