"""Which files a path of `data.train` names: one file, or those of a folder."""

from __future__ import annotations

import os
from pathlib import Path

from sumika.finetune.data.problems import DataError
from sumika.models.errors import quoted

KINDS = {".jsonl": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".xlsx": "xlsx"}
MOST_FILES = 10_000
_LARGEST = 64 * 2**30
# What editors, Excel and file managers leave beside data.
_BESIDE = frozenset({"thumbs.db", "desktop.ini", "readme", "readme.md", "readme.txt", "license", "licence", "license.txt"})
_REMEDIES = {
    ".xls": ("the old Excel format; save it as .xlsx", "旧形式のExcelです。.xlsx で保存し直してください"),
    ".xlsm": ("an Excel file with macros; save it as .xlsx", "マクロ付きのExcelです。.xlsx で保存し直してください"),
    ".xlsb": ("a binary Excel file; save it as .xlsx", "バイナリ形式のExcelです。.xlsx で保存し直してください"),
    ".gz": ("compressed; unpack it first", "圧縮されています。先に展開してください"),
    ".zip": ("compressed; unpack it first", "圧縮されています。先に展開してください"),
    ".txt": ("no table; put each text into a row of JSONL or CSV under 'text'", "表ではありません。JSONLかCSVの text 列に1件ずつ入れてください"),
    ".py": ("code; data is never loaded by a script", "プログラムです。スクリプトによる読み込みは行いません"),
}  # fmt: skip


def find(path: Path) -> tuple[list[Path], list[tuple[Path, DataError]]]:
    """The data files that `path` names, in the order of their names, and what in a folder can't be read as data."""
    if not path.is_dir():
        error = refusal(path)
        return ([], [(path, error)]) if error else ([path], [])
    root = path.resolve()
    found, refused = [], []
    for inside in _inside(path):
        if inside.is_symlink() and _leads_out(inside, root):
            refused.append((inside, DataError(
                "is a link that leads out of the folder; put the file itself there",
                "フォルダーの外を指すリンクです。実際のファイルを置いてください",
            )))  # fmt: skip
        elif error := refusal(inside):
            refused.append((inside, error))
        else:
            found.append(inside)
    if not found and not refused:
        refused.append((path, DataError(
            f"the folder holds no data file ({', '.join(KINDS)})", f"フォルダーにデータファイル({', '.join(KINDS)})がありません"
        )))  # fmt: skip
    if len(found) + len(refused) > MOST_FILES:
        refused.append((path, DataError(
            f"the folder holds more than {MOST_FILES:,} files, and no more are read; join them",
            f"ファイルが {MOST_FILES:,} 個を超えています。結合してください",
        )))  # fmt: skip
    return found, refused


def refusal(path: Path) -> DataError | None:
    """Why this file can't be data, if it can't."""
    suffix = path.suffix.lower()
    known = ", ".join(KINDS)
    if not path.is_file():
        return DataError("is no regular file; give a file or folder on a local disk", "通常のファイルではありません。ローカルのファイルかフォルダーを指定してください")  # fmt: skip
    if suffix in _REMEDIES:
        en, ja = _REMEDIES[suffix]
        return DataError(f"is {en} (read are: {known})", f"{ja}(対応形式: {known})")
    if suffix not in KINDS:
        return DataError(
            f"'{quoted(suffix)}' is no kind of data file (read are: {known}); convert it, or take it out of the folder",
            f"「{quoted(suffix)}」は対応していない形式です(対応形式: {known})。変換するか、フォルダーから取り除いてください",
        )
    if path.stat().st_size > _LARGEST:
        return DataError(
            f"is larger than {_LARGEST // 2**30} GiB; split it", f"{_LARGEST // 2**30} GiB を超えています。分割してください"
        )
    return None


def _inside(folder: Path) -> list[Path]:
    """Files and links in `folder` and below, in the order of their names; one more than may be at most."""
    found: list[Path] = []
    for at, below, names in os.walk(folder):
        inside = Path(at)
        below[:] = sorted(name for name in below if not is_beside(Path(name)))
        links = [name for name in below if (inside / name).is_symlink()]
        found += [inside / name for name in (*names, *links) if not is_beside(Path(name))]
        if len(found) > MOST_FILES:
            break
    return sorted(found)[: MOST_FILES + 1]


def _leads_out(link: Path, root: Path) -> bool:
    try:
        return not link.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # to itself
        return True


def is_beside(inside: Path) -> bool:
    """Whether it is what editors, Excel and file managers leave beside data."""
    hidden = any(part.startswith((".", "~$", "__MACOSX")) for part in inside.parts)
    return hidden or inside.name.lower() in _BESIDE
