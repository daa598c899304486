"""The child that parses one Parquet or Excel file and prints its rows as JSON lines. Imports nothing of Sumika's.

    binary_worker.py parquet|xlsx FILE

Prints {"row": number, "columns": {…}} for each row, {"refused": [why, …]} where the file can't be taken (with "row" where
only that row can't), and {"done": true} at the end; whoever reads sees by the last whether the child lived that long.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import unicodedata
import zipfile
from collections.abc import Iterator
from typing import Any

MEMORY = 4 * 2**30
SECONDS = 1800
LARGEST_UNPACKED = 2 * 2**30
HIGHEST_RATIO = 200  # of unpacked to packed; text in sheets packs to a tenth or a twentieth
MOST_ENTRIES = 10_000
MOST_COLUMNS = 1000
MOST_SHEET_ROWS = 1_048_576  # Excel's own
LARGEST_CELL = 4_000_000
OLE = bytes.fromhex("d0cf11e0a1b11ae1")


class Refused(Exception):
    def __init__(self, *why: str) -> None:
        super().__init__(*why)
        self.why = why


def main() -> None:
    kind, path = sys.argv[1:]
    for limit, most in ((resource.RLIMIT_DATA, MEMORY), (resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_CORE, 0)):
        _, already = resource.getrlimit(limit)  # a parent's own may be lower
        most = most if already == resource.RLIM_INFINITY else min(most, already)
        resource.setrlimit(limit, (most, most))
    most = max(LARGEST_UNPACKED, HIGHEST_RATIO * os.path.getsize(path))
    try:
        for told in parquet(path) if kind == "parquet" else xlsx(path):
            most -= say(told)
            if most < 0:
                raise Refused("bomb")
        say({"done": True})
    except Refused as refused:
        say({"refused": refused.why})


def say(told: dict[str, Any]) -> int:
    """Print one line; its length in characters."""
    return sys.stdout.write(json.dumps(told) + "\n")


def parquet(path: str) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet as pq
    except ImportError:
        raise Refused("needs_package", "pyarrow") from None
    try:
        file = pq.ParquetFile(path)
        names = [unicodedata.normalize("NFC", name).strip() for name in file.schema_arrow.names]
        check_names(names)
        number = 0
        for batch in file.iter_batches(batch_size=256, use_threads=False):
            columns = [column.to_pylist() for column in batch.columns]
            for values in zip(*columns, strict=True):
                number += 1
                yield {"row": number, "columns": {n: plain(v, f"'{n}'") for n, v in zip(names, values, strict=True)}}
    except (pyarrow.ArrowException, OSError, ValueError):
        raise Refused("broken") from None


def xlsx(path: str) -> Iterator[dict[str, Any]]:
    try:
        import openpyxl
    except ImportError:
        raise Refused("needs_package", "openpyxl") from None
    check_zip(path)
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=False, keep_links=False)
        sheets = [sheet for sheet in book.worksheets if not is_empty(sheet)]
        if not sheets:
            raise Refused("empty")
        if len(sheets) > 1:
            raise Refused("sheets", ", ".join(sheet.title for sheet in sheets))
        yield from sheet_rows(sheets[0])
    except Refused:
        raise
    # openpyxl documents none of what it raises on a bad file; this is the edge of the process.
    except Exception:
        raise Refused("broken") from None


def check_zip(path: str) -> None:
    with open(path, "rb") as file:
        if file.read(8) == OLE:
            raise Refused("protected")
    try:
        entries = zipfile.ZipFile(path).infolist()
    except (zipfile.BadZipFile, OSError, ValueError):
        raise Refused("broken") from None
    names = [entry.filename.lower() for entry in entries]
    # What an entry says of its size is also where its reading stops.
    bombs = (e.file_size > 2**20 and e.file_size > HIGHEST_RATIO * max(e.compress_size, 1) for e in entries)
    if len(entries) > MOST_ENTRIES or sum(e.file_size for e in entries) > LARGEST_UNPACKED or any(bombs):
        raise Refused("bomb")
    if any("vbaproject" in name or "macrosheets" in name for name in names):
        raise Refused("macros")
    if any("externallinks/" in name for name in names):
        raise Refused("links")


def is_empty(sheet: Any) -> bool:
    sheet.reset_dimensions()  # what a sheet says of its size need not be so
    return all(cell.value in (None, "") for cells in first_rows(sheet) for cell in cells)


def first_rows(sheet: Any) -> Iterator[Any]:
    for number, cells in enumerate(sheet.iter_rows(), start=1):
        yield cells
        if number == 1000:
            return


def sheet_rows(sheet: Any) -> Iterator[dict[str, Any]]:
    names: list[str] = []
    for number, cells in enumerate(sheet.iter_rows(), start=1):
        if number > MOST_SHEET_ROWS:
            raise Refused("broken")
        if all(cell.value in (None, "") for cell in cells):
            continue
        if len(cells) > MOST_COLUMNS and any(cell.value is not None for cell in cells[MOST_COLUMNS:]):
            raise Refused("too_many_columns", str(MOST_COLUMNS))
        cells = cells[:MOST_COLUMNS]
        if not names:
            names = header(cells)
            continue
        loose = next((c for c in cells[len(names) :] if c.value not in (None, "")), None)
        loose = loose or next((c for n, c in zip(names, cells, strict=False) if not n and c.value not in (None, "")), None)
        if loose is not None:
            yield {"row": number, "refused": ("unnamed", loose.coordinate)}
            continue
        given = {n: cell_value(c) for n, c in zip(names, cells, strict=False) if n}
        yield {"row": number, "columns": dict.fromkeys(filter(None, names)) | given}


def header(cells: Any) -> list[str]:
    for cell in cells:
        if cell.value is not None and not isinstance(cell.value, str):
            raise Refused("header", cell.coordinate)
    names = [unicodedata.normalize("NFC", cell.value or "").strip() for cell in cells]
    check_names(names)
    return names


def check_names(names: list[str]) -> None:
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise Refused("twice", twice[0])
    if len(names) > MOST_COLUMNS:
        raise Refused("too_many_columns", str(MOST_COLUMNS))


def cell_value(cell: Any) -> Any:
    """A cell's text; a plain number is the text Excel shows for it, anything formatted is not."""
    value = cell.value
    if value is None or (isinstance(value, str) and cell.data_type in ("s", "inlineStr", "str", "n")):
        return plain(value, cell.coordinate)
    if cell.data_type in ("f", "e"):
        return unreadable(cell.coordinate, "formula" if cell.data_type == "f" else "error")
    if type(value) in (int, float) and cell.number_format in ("General", "@", "0"):
        return str(value)
    return unreadable(cell.coordinate, "formatted")


def plain(value: Any, where: str) -> Any:
    if isinstance(value, str):
        return value if len(value) <= LARGEST_CELL else unreadable(where, "long")
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list):
        return [plain(one, where) for one in value]
    if isinstance(value, dict):
        return {str(name): plain(one, where) for name, one in value.items()}
    return unreadable(where, "bytes" if isinstance(value, bytes) else "formatted")


def unreadable(where: str, kind: str) -> dict[str, list[str]]:
    return {"\0unreadable": [where, kind]}


if __name__ == "__main__":
    main()
