"""What is wrong with data, told all at once: file, row, and what to do about it, in English and Japanese."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sumika.models.errors import SumikaError

_SHOWN = 20
_KEPT = 1000
SAME_NAME = ("two columns have the same name; rename one", "同じ名前の列が2つあります。名前を変えてください")


class DataError(Exception):
    """What is wrong with one row, or with a whole file; who reads the file knows where. `line`: from 1, where it is known.
    `unquoted`: the same in both languages without names of columns, which in a file without a header are a row's text."""

    def __init__(self, en: str, ja: str, *, line: int | None = None, unquoted: tuple[str, str] | None = None) -> None:
        super().__init__(en)
        self.en, self.ja, self.line, self.unquoted = en, ja, line, unquoted

    def without_quotes(self) -> DataError:
        return self if self.unquoted is None else DataError(*self.unquoted, line=self.line)


@dataclass(frozen=True, slots=True)
class Problem:
    """`where` is FILE or FILE:ROW."""

    where: str
    en: str
    ja: str

    def __str__(self) -> str:
        return f"{self.where}: {self.en}"


@dataclass(slots=True)
class Problems:
    """Counts every problem and keeps the first thousand, so that a million bad rows fit in memory."""

    kept: list[Problem] = field(default_factory=list)
    count: int = 0

    def add(self, where: str, error: DataError) -> None:
        self.count += 1
        if len(self.kept) < _KEPT:
            self.kept.append(Problem(where, error.en, error.ja))

    def stop(self) -> None:
        """Raises BadData when there are any."""
        if self.count:
            raise BadData(self.kept, self.count)


class BadData(SumikaError):
    """`bad_data`: rows that can't be trained on; the first twenty are shown."""

    def __init__(self, problems: Sequence[Problem], count: int | None = None) -> None:
        count = len(problems) if count is None else count
        shown = problems[:_SHOWN]
        more = count - len(shown)
        en = "".join(f"\n  {p.where}: {p.en}" for p in shown) + (f"\n  … {more:,} more" if more else "")
        ja = "".join(f"\n  {p.where}: {p.ja}" for p in shown) + (f"\n  … ほか {more:,} 件" if more else "")
        super().__init__(
            "bad_data",
            f"The data can't be trained on ({count:,} to mend):{en}",
            f"このデータでは学習できません(修正 {count:,} 件):{ja}",
        )
        self.problems = list(problems)
