"""Records from one path: its files found, decoded, read, their columns mapped, their format known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sumika.finetune.data import columns, encoding, files, formats, tables, unicode
from sumika.finetune.data.inputs import Inputs
from sumika.finetune.data.problems import DataError, Problems
from sumika.finetune.data.record import Content, Row, record_hash
from sumika.finetune.data.settings import Encoding, Format

MOST_ROWS = 5_000_000
_FIRST_ROWS = 20


@dataclass(frozen=True, slots=True)
class How:
    """How a source's files are read: as its own settings say, or else the group's.

    `columns_may_lack`: held-out rows are read with the training data's mapping where it fits them.
    `questions`: rows without an answer are conversations that end with a question.
    """

    columns: dict[str, str]
    format: Format = "auto"
    encoding: Encoding = "auto"
    facts: Literal["none", "optional", "required"] = "none"
    columns_may_lack: bool = False
    questions: bool = False


@dataclass(slots=True)
class FileRead:
    """One file as it was read, for the report and the manifest. `name`: what messages call it."""

    path: Path
    name: str
    sha256: str
    bytes: int
    encoding: str
    format: Format | None = None
    rows: int = 0
    unused: set[str] = field(default_factory=set)
    same_ids: int = 0
    disputed: int = 0

    @property
    def is_table(self) -> bool:
        """Whether all rows share one header."""
        return files.KINDS[self.path.suffix.lower()] not in ("json", "jsonl")

    def as_dict(self) -> dict[str, Any]:
        return {
            "file": self.path.name, "sha256": self.sha256, "bytes": self.bytes, "encoding": self.encoding, "format": self.format,
            "rows": self.rows, "unused_columns": sorted(self.unused), "same_ids": self.same_ids, "disputed_cp932": self.disputed,
        }  # fmt: skip


@dataclass(slots=True)
class Reader:
    """Reads paths one after the other; what it can't read goes to `problems`, what it read to `files`."""

    problems: Problems
    inputs: Inputs = field(default_factory=Inputs)
    files: list[FileRead] = field(default_factory=list)
    _rows: int = 0

    def rows(self, path: Path, how: How) -> Iterator[Row[Content]]:
        source = self.inputs.locate(path)
        found, refused = files.find(source)
        for where, error in refused:
            self.problems.add(_named(path, source, where), error)
        for one in found:
            name = _named(path, source, one)
            try:
                before = one.stat()
                yield from self._file(one, name, how)
                after = one.stat()
            except DataError as error:
                self._add(f"{name}:{error.line}" if error.line else name, error)
                continue
            except OSError as error:
                self.problems.add(name, DataError(f"can't be read ({error.strerror})", f"読めません({error.strerror})"))
                continue
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                self.problems.add(
                    name, DataError("changed while it was read; try again", "読み込み中に変更されました。やり直してください")
                )

    def _file(self, path: Path, name: str, how: How) -> Iterator[Row[Content]]:
        file = self._opened(path, name, how.encoding)
        self.files.append(file)
        ids: set[int] = set()
        for number, given in tables.rows(path, file.encoding if file.encoding == "binary" else encoding.CODECS[file.encoding]):
            self._rows += 1
            file.rows += 1
            if self._rows > MOST_ROWS:
                raise DataError(
                    f"more than {MOST_ROWS:,} rows in all; train on fewer", f"行が {MOST_ROWS:,} を超えています。減らしてください"
                )
            try:
                if isinstance(given, DataError):
                    raise given
                row = self._row(file, given, how, f"{name}:{number}")
            except DataError as error:
                if file.format is None and (file.is_table or file.rows >= _FIRST_ROWS):
                    raise DataError(
                        error.en, error.ja, line=number, unquoted=error.unquoted
                    ) from None  # no row will fit, and one word says it
                self._add(f"{name}:{number}", error)
                continue
            if "id" in given:
                row_id = hash(str(given["id"]))
                file.same_ids += row_id in ids
                ids.add(row_id)
            yield row
        if file.rows == 0:
            raise DataError(
                "holds no rows; add some, or take the file out", "行がありません。追加するか、ファイルを取り除いてください"
            )

    def _add(self, where: str, error: DataError) -> None:
        self.problems.add(where, error.without_quotes() if self.inputs.from_network else error)

    def _opened(self, path: Path, name: str, wanted: Encoding) -> FileRead:
        if files.KINDS[path.suffix.lower()] in ("parquet", "xlsx"):
            return FileRead(path, name, encoding.sha256(path), path.stat().st_size, "binary")
        decoded = encoding.look(path, wanted)
        return FileRead(path, name, decoded.sha256, decoded.bytes, decoded.name)

    def _row(self, file: FileRead, given: dict[str, Any], how: How, where: str) -> Row[Content]:
        there = columns.fields(given, how.columns, may_lack=how.columns_may_lack)
        if how.questions and (asked := formats.question(there)) is not None:
            return Row(asked, where, record_hash(asked))
        format = file.format or (columns.detect(there) if how.format == "auto" else how.format)
        columns.require(format, there)
        file.format = format
        content = formats.record(format, there)
        wanted = how.facts == "required" or (how.facts == "optional" and there.get("facts") is not None)
        facts = formats.facts(there) if wanted else ()
        file.unused |= there.keys() - columns.used(format, with_facts=how.facts != "none")
        if file.encoding == "cp932":
            file.disputed += sum(unicode.disputed(text) for _, text in content.texts())
        return Row(content, where, record_hash(content), facts)


def _named(path: Path, source: Path, inside: Path) -> str:
    """What messages call a file: as the job names it, or the folder that it lies in."""
    return str(path if inside == source else path / inside.relative_to(source))
