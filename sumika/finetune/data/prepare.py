"""All the data of a job in one pass: read, cleaned, rendered, fitted, counted. What `check`, `run` and the report share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from sumika.finetune.chat import ChatFormat, Rendered, RenderedPair
from sumika.finetune.data import records, samples, weight
from sumika.finetune.data.clean import Cleaner
from sumika.finetune.data.fit import fit
from sumika.finetune.data.inputs import Inputs
from sumika.finetune.data.pii import KINDS
from sumika.finetune.data.problems import DataError, Problems
from sumika.finetune.data.reading import How, Reader
from sumika.finetune.data.record import Content, Conversation, Document, Preference, Row, question_key
from sumika.finetune.data.report import Pair, Report, SourceCount
from sumika.finetune.data.settings import Data, Source

if TYPE_CHECKING:
    from sumika.finetune.data.near import Signature

_PAIRS_SHOWN = 20
R = TypeVar("R", Rendered, RenderedPair)

NOT_FOR_SFT = DataError(
    "preference pairs are learned by DPO, and this job trains by SFT; give it conversations or text, or set job.method: dpo",
    "選好データ(chosen / rejected)はDPO用ですが、この学習はSFTです。会話かテキストを指定するか、job.method: dpo にしてください",
)
NOT_FOR_DPO = DataError(
    "DPO learns from preference pairs (chosen and rejected), and these rows are none; set job.method: sft, or give it pairs",
    "DPOには選好データ(chosen / rejected)が必要ですが、この行は違います。job.method: sft にするか、選好データを指定してください",
)


@dataclass(slots=True)
class Kept:
    """What stays in memory of a row: its tokens, its place, its hashes; not its text."""

    rendered: Rendered | RenderedPair
    where: str
    hash: str
    question: str
    marks: tuple[str, ...]
    whole_signature: Signature
    question_signature: Signature


@dataclass(slots=True)
class Prepared:
    """`shown` are the rows of one epoch, a row as often as its source's weight has it; `marks` go to records.txt.

    While `problems` holds any, no training may start.
    """

    shown: list[Rendered | RenderedPair]
    held_out: list[Row[Conversation]]
    marks: set[str]
    report: Report
    problems: Problems = field(default_factory=Problems)

    def rows(self) -> list[Rendered]:
        """The rows for SFT.

        Raises:
            BadData: when they are preference pairs.
        """
        return self._all(Rendered, NOT_FOR_SFT)

    def pairs(self) -> list[RenderedPair]:
        """The rows for DPO.

        Raises:
            BadData: when they are anything else than preference pairs.
        """
        return self._all(RenderedPair, NOT_FOR_DPO)

    def _all(self, kind: type[R], otherwise: DataError) -> list[R]:
        rows = [one for one in self.shown if isinstance(one, kind)]
        if len(rows) != len(self.shown):
            problems = Problems()
            problems.add(self.report.sources[0].path, otherwise)
            problems.stop()
        return rows


def prepare(data: Data, held_out: Path, chat: ChatFormat, *, job: str, base: str, limit: int | None, seed: int,
            method: Literal["sft", "dpo"] | None = None, inputs: Inputs | None = None) -> Prepared:  # fmt: skip
    """Read everything; what is wrong is collected in `problems`, so that the report can be looked at all the same.

    `method` refuses rows that it can't learn from; None takes any, as long as they are of one kind."""
    report = Report(job, base, data, limit)
    passing = _Pass(data, chat, report, method, inputs or Inputs())
    shown: list[Rendered | RenderedPair] = []
    marks: set[str] = set()
    for number, source in enumerate(data.train):
        kept = passing.train(source)
        times = weight.times(len(kept), source.weight, f"{seed}:{number}")
        shown += [one.rendered for one, count in zip(kept, times, strict=True) for _ in range(count)]
        marks.update(mark for one, count in zip(kept, times, strict=True) if count for mark in one.marks)
        report.sources.append(SourceCount(str(source.path), source.weight, len(kept), sum(times), times.count(0)))
    asked = passing.held_out(held_out)
    passing.finish()
    if not shown and not passing.problems.count:
        passing.problems.add(str(data.train[0].path), DataError(
            "no row is left to train on; see data.too_long and the sources' weights", "学習できる行が残りません。data.too_long と重みを確認してください"
        ))  # fmt: skip
    return Prepared(shown, asked, marks, report, passing.problems)


class _Pass:
    """The one walk over all rows, with what it counts on the way."""

    def __init__(
        self, data: Data, chat: ChatFormat, report: Report, method: Literal["sft", "dpo"] | None, inputs: Inputs
    ) -> None:
        self.problems = Problems()
        self._method = method
        self._data, self._chat, self._report = data, chat, report
        self._cleaner, self._held_cleaner = (Cleaner(data, chat.control_tokens) for _ in range(2))
        self._reader, self._held_reader = Reader(self.problems, inputs), Reader(self.problems, inputs)
        self._kept: list[Kept] = []
        self._asked: list[tuple[Row[Conversation], Signature]] = []

    def train(self, source: Source) -> list[Kept]:
        how = How(
            (source.columns or self._data.columns).named(),
            source.format or self._data.format,
            source.encoding or self._data.encoding,
        )
        before = len(self._kept)
        for row in self._reader.rows(source.path, how):
            try:
                self._take(self._cleaner.clean(row), row.content)
            except DataError as error:
                self.problems.add(row.where, error)
        return self._kept[before:]

    def _take(self, row: Row[Content], original: Content) -> None:
        is_pair = isinstance(row.content, Preference)
        if self._method == "sft" and is_pair:
            raise NOT_FOR_SFT
        if self._method == "dpo" and not is_pair:
            raise NOT_FOR_DPO
        fitted = fit(self._chat, row.content, self._report.limit, self._data.too_long)
        if fitted.rendered is None:
            self._report.dropped[fitted.fate] += 1
            return
        if self._kept and type(fitted.rendered) is not type(self._kept[0].rendered):
            raise DataError(
                f"preference pairs and other rows don't train together (the first row is {self._kept[0].where}); make two jobs",
                f"選好データとほかのデータは一緒に学習できません(最初の行は {self._kept[0].where})。別の学習に分けてください",
            )
        if fitted.fate == "truncated":
            self._report.truncated += 1
            self._report.tokens_cut += fitted.tokens - fitted.rendered.length
        self._kept.append(Kept(
            fitted.rendered, row.where, row.hash, question_key(original), tuple(records.marks(original)), *_signatures(original)
        ))  # fmt: skip

    def held_out(self, path: Path) -> list[Row[Conversation]]:
        """Held-out rows are judged as they are: too long is wrong, whatever data.too_long says of the others."""
        for row in self._held_reader.rows(path, self._how_held_out()):
            try:
                cleaned = self._held_cleaner.clean(row)
                if not isinstance(cleaned.content, Conversation):
                    raise DataError(
                        "a held-out row is a question and its answer, as messages or prompt and completion",
                        "評価用の行は質問と応答の組です(messages、または prompt と completion)",
                    )
                fit(self._chat, cleaned.content, self._report.limit, "error")
                asked = Row(cleaned.content, row.where, question_key(row.content), cleaned.facts)
                self._asked.append((asked, _signatures(row.content)[1]))
            except DataError as error:
                self.problems.add(row.where, error)
        return [row for row, _ in self._asked]

    def _how_held_out(self) -> How:
        return How(self._data.columns.named(), "auto", self._data.encoding, facts="optional", columns_may_lack=True)

    def finish(self) -> None:
        """Count what needs all rows: duplicates and leaks."""
        report, cleaner = self._report, self._cleaner
        report.files, report.held_out_files = self._reader.files, self._held_reader.files
        report.read = sum(file.rows for file in report.files)
        report.held_out = len(self._asked)
        report.lengths = [one.rendered.length for one in self._kept]
        report.trained = [one.rendered.trained for one in self._kept]
        report.refused = report.read - report.kept - report.dropped.total()
        report.languages, report.forms, report.normalized = cleaner.languages, cleaner.forms, cleaner.changed
        report.pii = {
            kind: {"found": cleaner.found[kind], "rows": cleaner.found_rows[kind], "action": getattr(self._data.pii, kind)}
            for kind in KINDS
        }
        report.samples = samples.take(self._chat, [(one.where, one.rendered) for one in self._kept])
        self._count_duplicates()
        self._count_leaks()

    def _count_duplicates(self) -> None:
        first: dict[str, int] = {}
        same = [(n, first.setdefault(one.hash, n)) for n, one in enumerate(self._kept)]
        exact = [(n, of) for n, of in same if n != of]
        near = [(n, of) for n, of in self._near() if self._kept[n].hash != self._kept[of].hash]
        self._report.distinct = len(first)
        self._told("duplicates", "exact", ((self._kept[n].where, self._kept[of].where) for n, of in exact))
        self._told("duplicates", "near", ((self._kept[n].where, self._kept[of].where) for n, of in near))

    def _near(self) -> Iterator[tuple[int, int]]:
        from sumika.finetune.data import near

        found = near.earlier(near.stacked([one.whole_signature for one in self._kept]))
        return ((n, int(of)) for n, of in enumerate(found) if of >= 0)

    def _count_leaks(self) -> None:
        from sumika.finetune.data import near

        trained = {one.question: one.where for one in self._kept}
        exact = [(row.where, trained[row.hash]) for row, _ in self._asked if row.hash in trained]
        for where, other in exact:
            self.problems.add(where, DataError(
                f"this question is also trained on ({other}); take it out of one of the two",
                f"この質問は学習データ({other})にもあります。どちらかから取り除いてください",
            ))  # fmt: skip
        found = near.across(
            near.stacked([signature for _, signature in self._asked]),
            near.stacked([one.question_signature for one in self._kept]),
        )
        pairs = (
            (row.where, self._kept[at].where)
            for (row, _), at in zip(self._asked, found, strict=True)
            if at >= 0 and row.hash not in trained
        )
        self._told("leaks", "exact", exact)
        self._told("leaks", "near", pairs)

    def _told(self, about: Literal["duplicates", "leaks"], how: str, pairs: Iterable[tuple[str, str]]) -> None:
        told = [Pair(one, other) for one, other in pairs]
        getattr(self._report, about)[how] = len(told)
        self._report.pairs[f"{about}_{how}"] = told[:_PAIRS_SHOWN]


def _signatures(content: Content) -> Sequence[Signature]:
    """Of the whole record, and of what is asked in it."""
    from sumika.finetune.data import near

    whole = "\n".join(text for _, text in content.texts())
    if isinstance(content, Document):
        return near.signature(whole), near.signature(whole)
    messages = content.question if isinstance(content, Conversation) else content.prompt
    return near.signature(whole), near.signature("\n".join(m["content"] for m in messages if m["role"] == "user"))
