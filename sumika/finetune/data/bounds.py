"""How long a cell, a line and a JSON file may be at most."""

from __future__ import annotations

from sumika.finetune.data.problems import DataError

LARGEST_CELL = 4_000_000
LARGEST_LINE = 4 * LARGEST_CELL
LARGEST_JSON = 512 * 2**20


def too_long_line(number: int) -> DataError:
    return DataError(
        f"the line is longer than {LARGEST_LINE:,} characters; one record stands on each line (is it a .json file?)",
        f"1行が {LARGEST_LINE:,} 文字を超えています。1行に1件です(.json ファイルではありませんか)",
        line=number,
    )


def too_large_json() -> DataError:
    return DataError(
        f"is larger than {LARGEST_JSON // 2**20} MiB, and JSON is read at once; save it as JSONL, one object a line",
        f"JSONは一括で読むため {LARGEST_JSON // 2**20} MiB までです。1行1件のJSONLで保存してください",
    )
