"""Tables as CSV that Excel opens as it is: UTF-8 with a byte order mark, and no cell that it would run as a formula."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from sumika.models.errors import SumikaError, quoted
from sumika.models.home import write_atomically

# A cell that begins so is a formula to Excel and LibreOffice, or becomes one when it is opened (OWASP, CSV injection).
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def as_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([_defused(cell) for cell in row] for row in rows)
    return text.getvalue().encode("utf-8-sig")


def write_csv(target: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """To a file, whole or not at all; `-` is standard output.

    Raises:
        SumikaError: `bad_file`.
    """
    data = as_csv(columns, rows)
    if target == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
        return
    try:
        write_atomically(Path(target), data, mode=0o600)
    except OSError as error:
        shown = quoted(target)
        raise SumikaError(
            "bad_file",
            f"'{shown}' can't be written ({error.strerror}). Check the folder, its permissions and the disk.",
            f"「{shown}」に書き込めません({error.strerror})。フォルダー、権限、ディスクの空きを確認してください。",
        ) from None


def _defused(cell: object) -> object:
    if isinstance(cell, str) and cell.startswith(_FORMULA):
        return "'" + cell
    return "" if cell is None else cell
