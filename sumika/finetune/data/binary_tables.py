"""Parquet and Excel, read in a child process that may not take more than its memory and time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sumika.finetune.data.problems import SAME_NAME, DataError

_WORKER = Path(__file__).with_name("binary_worker.py")
_LONGEST_LINE = 64 * 2**20
_REFUSALS = {
    "needs_package": ("needs the Python package '{0}'; install Sumika's finetune extra", "Pythonパッケージ「{0}」が必要です。Sumikaの finetune extra を導入してください"),
    "protected": ("is protected by a password, or in the old Excel format; save it as an unprotected .xlsx", "パスワードで保護されているか、旧形式のExcelです。保護のない .xlsx で保存してください"),
    "broken": ("is damaged, or not of the kind its name says; save it again", "壊れているか、拡張子と中身が違います。保存し直してください"),
    "bomb": ("unpacks to far more than its size; save it again with values only", "展開すると異常に大きくなります。値だけにして保存し直してください"),
    "macros": ("holds macros; save a copy as .xlsx without them", "マクロを含みます。マクロのない .xlsx で保存してください"),
    "links": ("holds links to other workbooks; save a copy with values only", "ほかのブックへのリンクを含みます。値だけにして保存してください"),
    "sheets": ("has several sheets with rows ({0}); keep one, or save each as a file of its own", "値のあるシートが複数あります({0})。1つにするか、別々のファイルに保存してください"),
    "empty": ("holds no rows; the first row names the columns", "行がありません。1行目には列名を書いてください"),
    "header": ("the header's cell {0} is no text; name every column", "1行目のセル {0} が文字列ではありません。列名を書いてください"),
    "twice": ("two columns are named '{0}'; rename one", "「{0}」という列が2つあります。名前を変えてください"),
    "too_many_columns": ("has more than {0} columns; keep those that are trained on", "列が {0} を超えています。学習に使う列だけにしてください"),
    "unnamed": ("cell {0} stands under a column without a name; name it in the header", "セル {0} の列に名前がありません。1行目に列名を書いてください"),
}  # fmt: skip
_KINDS_OF_CELL = {
    "formula": ("a formula; paste its value instead", "数式です。値に置き換えてください(値の貼り付け)"),
    "formatted": ("a date or formatted number, whose text is not in the file; make the column text", "日付または書式付きの数値で、表示どおりの文字がファイルにありません。列を文字列にしてください"),
    "error": ("an Excel error; mend it", "Excelのエラー値です。直してください"),
    "bytes": ("binary; only text is trained on", "バイナリです。学習できるのは文字列だけです"),
    "long": ("longer than a cell may be; shorten it", "長すぎます。短くしてください"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A value that is no text, where it matters only if its column is used."""

    where: str
    kind: str

    def error(self) -> DataError:
        en, ja = _KINDS_OF_CELL[self.kind]
        return DataError(f"{self.where} is {en}", f"{self.where} は{ja}")


def rows(path: Path, kind: str) -> Iterator[tuple[int, dict[str, Any] | DataError]]:
    """Row after row as the child prints them.

    Raises:
        DataError: what the child refuses the file for, or that it died.
    """
    with _printed(path, kind) as lines:
        while line := lines.readline(_LONGEST_LINE):
            try:
                told = json.loads(line, object_hook=_restored)
            except ValueError:
                break
            match told:
                case {"done": True}:
                    return
                case {"refused": [str(why), *details], "row": int(row)}:
                    yield row, _refusal(why, details)
                case {"refused": [str(why), *details]}:
                    raise _refusal(why, details)
                case {"row": int(row), "columns": columns}:
                    yield row, columns
    raise DataError(
        "could not be parsed within the limits on memory and time; split it, or save it as JSONL",
        "メモリーまたは時間の上限内に読めませんでした。分割するか、JSONLで保存してください",
    )


@contextmanager
def _printed(path: Path, kind: str) -> Iterator[IO[bytes]]:
    # -I: nothing of the environment or the working directory decides what the child imports.
    command = [sys.executable, "-I", str(_WORKER), kind, str(path.absolute())]
    environment = os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        if child.stdout is not None:
            with child.stdout as lines:
                yield lines
    finally:
        child.kill()
        child.wait()


def _refusal(why: str, details: list[str]) -> DataError:
    en, ja = _REFUSALS[why]
    return DataError(en.format(*details), ja.format(*details), unquoted=SAME_NAME if why == "twice" else None)


def _restored(value: dict[str, Any]) -> Any:
    return Unreadable(*value["\0unreadable"]) if value.keys() == {"\0unreadable"} else value
