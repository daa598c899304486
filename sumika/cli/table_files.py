"""Tables that commands write to files."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from sumika.models.errors import SumikaError, quoted
from sumika.models.home import write_atomically
from sumika.models.spreadsheet import as_csv


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
