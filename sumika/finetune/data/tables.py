"""The rows of one file, whatever its kind: each as its number (the line, or the sheet's row) and a mapping of columns.

Text files are read here line by line; Parquet and Excel, whose parsers have long histories of crashing on bad files,
in a child process with a limit on memory and time (`binary_tables`).
"""

from __future__ import annotations

import csv
import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from sumika.finetune.data import binary_tables
from sumika.finetune.data.bounds import LARGEST_CELL, LARGEST_JSON, LARGEST_LINE, too_large_json, too_long_line
from sumika.finetune.data.files import KINDS
from sumika.finetune.data.problems import SAME_NAME, DataError

_MOST_COLUMNS = 1000

Columns = dict[str, Any]
Numbered = Iterator[tuple[int, Columns | DataError]]


def rows(path: Path, codec: str) -> Numbered:
    """Row after row, a DataError in place of one that can't be read; `codec` is Python's name of a text file's encoding.

    Raises:
        DataError: when nothing after it can be read either.
    """
    kind = KINDS[path.suffix.lower()]
    if kind in ("parquet", "xlsx"):
        yield from binary_tables.rows(path, kind)
        return
    with path.open(encoding=codec, newline="\n" if kind == "jsonl" else "") as file:
        if kind == "jsonl":
            yield from _jsonl(file)
        elif kind == "json":
            yield from _json(path, file)
        else:
            yield from _separated(file, "," if kind == "csv" else "\t")


def _lines(file: IO[str]) -> Iterator[str]:
    number = 0
    while line := file.readline(LARGEST_LINE):
        number += 1
        if len(line) == LARGEST_LINE:
            raise too_long_line(number)
        yield line


def _jsonl(file: IO[str]) -> Numbered:
    for number, line in enumerate(_lines(file), start=1):
        if line.strip():
            yield number, _object(line, "each line holds one object", "1行に1つのオブジェクトを書いてください")


def _json(path: Path, file: IO[str]) -> Numbered:
    if path.stat().st_size > LARGEST_JSON:
        raise too_large_json()
    whole = parse(file.read())
    if not isinstance(whole, list):
        raise DataError(
            "is not a list; a .json file holds one list of objects (one object a line is .jsonl)",
            "リストではありません。.json にはオブジェクトのリストを1つ書いてください(1行1件は .jsonl)",
        )
    for number, one in enumerate(whole, start=1):
        yield number, one if isinstance(one, dict) else _no_object("the list holds objects", "リストの要素はオブジェクトです")


def _object(text: str, en: str, ja: str) -> Columns | DataError:
    try:
        value = parse(text)
    except DataError as error:
        return DataError(f"{error.en}; {en}", f"{error.ja}。{ja}")
    return value if isinstance(value, dict) else _no_object(en, ja)


def _no_object(en: str, ja: str) -> DataError:
    return DataError(f"not a JSON object; {en}", f"JSONオブジェクトではありません。{ja}")


def parse(text: str) -> Any:
    """Strict JSON: no key twice, no NaN, no number beyond Python's digits, no nesting beyond its depth.

    Raises:
        DataError: saying which.
    """
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise DataError(
            f"not JSON ({error.msg}: {place}column {error.colno})", f"JSONではありません({place}column {error.colno})", line=error.lineno
        ) from None  # fmt: skip
    except RecursionError:
        raise DataError("not JSON that can be read (nested too deep)", "JSONの入れ子が深すぎます") from None
    except ValueError as error:
        raise DataError(f"not JSON ({error})", f"JSONではありません({error})") from None


def _once(pairs: list[tuple[str, Any]]) -> Columns:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key is given twice")
    return made


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _separated(file: IO[str], separator: str) -> Numbered:
    csv.field_size_limit(LARGEST_CELL)  # the standard library's own limit, 131,072, is a long text's length
    reader = csv.reader(_lines(file), delimiter=separator, strict=True)
    begins = 1
    try:
        header = column_names(next(reader, []), separator)
        begins = reader.line_num + 1
        for cells in reader:
            line, begins = begins, reader.line_num + 1
            if any(cell.strip() for cell in cells):
                yield line, _named(header, cells)
    except csv.Error as error:
        if "field larger" in str(error):
            raise DataError(
                f"a cell is longer than {LARGEST_CELL:,} characters; shorten it, or close the quote that opens it",
                f"1つのセルが {LARGEST_CELL:,} 文字を超えています。短くするか、開いたままの引用符を閉じてください",
                line=begins,
            ) from None
        raise DataError(
            f"not a table of separated values ({error}); a quote inside a cell is written twice, and every quote is closed",
            f"区切り文字の表として読めません({error})。セル内の引用符は2つ重ね、引用符は必ず閉じてください",
            line=begins,
        ) from None


def column_names(cells: list[str], separator: str = ",") -> list[str]:
    """The header's names, in NFC and without white space around them.

    Raises:
        DataError: when there is none, or one is there twice.
    """
    names = [unicodedata.normalize("NFC", cell).strip() for cell in cells]
    if not any(names):
        raise DataError("holds no rows; the first line names the columns", "行がありません。1行目には列名を書いてください")
    if len(names) > _MOST_COLUMNS:
        raise DataError(f"has more than {_MOST_COLUMNS} columns; keep those that are trained on", f"列が {_MOST_COLUMNS} を超えています。学習に使う列だけにしてください", line=1)  # fmt: skip
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise DataError(
            f"two columns are named '{twice[0]}'; rename one", f"「{twice[0]}」という列が2つあります。名前を変えてください", line=1,
            unquoted=SAME_NAME,
        )  # fmt: skip
    if len(names) == 1 and separator == "," and any(sign in names[0] for sign in "\t;"):
        raise DataError(
            "its columns are not separated by commas; save it with commas, or with tabs as .tsv",
            "列がカンマで区切られていません。カンマ区切りで保存するか、タブ区切りなら .tsv にしてください",
            line=1,
        )
    return names


def _named(header: list[str], cells: list[str]) -> Columns | DataError:
    if len(cells) != len(header):
        return DataError(
            f"has {len(cells)} cells, and the header {len(header)}; put a cell that holds a separator or a line break in quotes",
            f"セルが {len(cells)} 個あります(列名は {len(header)} 個)。区切り文字や改行を含むセルは引用符で囲んでください",
        )
    return named(header, cells)


def named(header: list[str], cells: list[Any]) -> Columns | DataError:
    """Cells under their names; what stands under no name must be empty."""
    if any(not name and cell not in (None, "") for name, cell in zip(header, cells, strict=True)):
        return DataError("a cell stands under a column without a name; name it in the header", "列名のない列に値があります。1行目に列名を書いてください")  # fmt: skip
    return {name: cell for name, cell in zip(header, cells, strict=True) if name}
