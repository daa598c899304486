"""From a file's columns to the fields of a format: data.columns, and what to say when they don't meet."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from sumika.finetune.data.problems import DataError
from sumika.finetune.data.settings import Format
from sumika.models.errors import quoted

# What each format can't do without; the first that a file has is not taken, the only one is.
REQUIRED: dict[Format, tuple[str, ...]] = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "alpaca": ("instruction", "output"),
    "prompt_completion": ("prompt", "completion"),
    "text": ("text",),
    "preference": ("chosen", "rejected"),
}
_OPTIONAL: dict[Format, tuple[str, ...]] = {
    "sharegpt": ("system",),
    "alpaca": ("input", "system", "history"),
    "prompt_completion": ("system",),
    "preference": ("prompt", "system"),
}
# Headers that Japanese tables of questions and answers have, and the field each most likely is.
_LIKELY = {
    "prompt": ("質問", "問い", "問合せ", "問い合わせ", "入力", "question", "q", "input"),
    "completion": ("回答", "答え", "応答", "出力", "answer", "a", "response", "output"),
    "text": ("本文", "文章", "テキスト", "content", "body"),
}
_NOT_TRAINED = ("tools", "images", "videos", "audios")


def fields(row: Mapping[str, Any], named: Mapping[str, str], *, may_lack: bool = False) -> dict[str, Any]:
    """The row under the fields' names; a field that data.columns names hides a column of the same name.

    Raises:
        DataError: a column that data.columns names is not there, unless it `may_lack`.
    """
    row = {_plain(name): value for name, value in row.items()}
    wanted = {field: _plain(column) for field, column in named.items()}
    if may_lack:
        wanted = {field: column for field, column in wanted.items() if column in row}
    for field, column in wanted.items():
        if column not in row:
            raise _no_column(f"data.columns.{field}", column, row)
    taken = set(wanted.values())
    return {name: value for name, value in row.items() if name not in taken} | {f: row[c] for f, c in wanted.items()}


def _plain(name: str) -> str:
    """A header as macOS takes it apart is the same header."""
    return unicodedata.normalize("NFC", name).strip()


def used(format: Format, with_facts: bool) -> set[str]:
    return {*REQUIRED[format], *_OPTIONAL.get(format, ()), *(["facts"] if with_facts else [])}


def detect(columns: Iterable[str]) -> Format:
    """The one format whose fields are all there.

    Raises:
        DataError: none is, or several are.
    """
    there = set(columns)
    fitting = [format for format, required in REQUIRED.items() if there.issuperset(required)]
    if set(fitting) == {"sharegpt", "preference"} and "prompt" not in there:
        return "preference"  # LLaMA-Factory's pairs keep their prompt in `conversations`
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise DataError(
            f"its columns fit {' and '.join(fitting)}; set data.format to the one that is meant",
            f"{' と '.join(fitting)} のどちらの形式にも読めます。data.format で指定してください",
        )
    mapping = "{" + ", ".join(f"{field}: {column}" for field, column in _guess(there).items()) + "}"
    if len(mapping) > 2:
        raise _listing(
            there, "its columns are {}; say which holds what, for example data.columns: " + mapping,
            "列は {} です。どの列が何かを指定してください(例: data.columns: " + mapping + ")",
        )  # fmt: skip
    known = "; ".join(f"{' + '.join(required)}" for required in REQUIRED.values())
    raise _listing(
        there, "its columns are {}, and a format needs one of: " + known + "; name them in data.columns",
        "列は {} ですが、次のいずれかが必要です: " + known + "。data.columns で対応を指定してください",
    )  # fmt: skip


def require(format: Format, there: Mapping[str, Any]) -> None:
    """Raises DataError when a field of `format` is missing, or one is there that is never trained on."""
    for field in REQUIRED[format]:
        if field not in there:
            raise _no_column(field, field, there)
    for field in _NOT_TRAINED:
        if there.get(field):
            raise DataError(
                f"'{field}' is not trained on; take the column out", f"「{field}」は学習に使えません。列を取り除いてください"
            )


def _no_column(what: str, column: str, there: Iterable[str]) -> DataError:
    close = difflib.get_close_matches(column, list(there), n=1, cutoff=0.5)
    en, ja = (f"; did you mean '{quoted(close[0])}'?", f"「{quoted(close[0])}」のことですか。") if close else ("", "")
    name, shown = quoted(column), _listed(there)
    if what == column:
        said, said_ja = f"'{name}' is missing", f"「{name}」がありません。"
        return DataError(
            f"{said}; it has {shown}{en}", f"{said_ja}あるのは {shown} です。{ja}", unquoted=_unquoted(said, said_ja)
        )
    said, said_ja = f"{what}: there is no column '{name}'", f"{what}: 列「{name}」はありません。"
    return DataError(f"{said}; there are {shown}{en}", f"{said_ja}あるのは {shown} です。{ja}", unquoted=_unquoted(said, said_ja))


def _unquoted(en: str, ja: str) -> tuple[str, str]:
    return f"{en}; the first line of a table must name its columns", f"{ja}表の1行目には列名が必要です。"


def _listing(there: Iterable[str], en: str, ja: str) -> DataError:
    """`en` and `ja` with the columns that are there in the place of `{}`, or without them."""
    shown = _listed(there)
    without = "none that a format has", "どの形式の列名でもない名前"
    return DataError(
        en.replace("{}", shown, 1), ja.replace("{}", shown, 1), unquoted=(en.replace("{}", without[0], 1), ja.replace("{}", without[1], 1))
    )  # fmt: skip


def _listed(names: Iterable[str]) -> str:
    shown = [quoted(name, 40) for name in sorted(names)]
    return ", ".join(shown[:12]) + (f" … ({len(shown)})" if len(shown) > 12 else "") or "none"


def _guess(there: set[str]) -> dict[str, str]:
    lower = {name.lower(): name for name in there}
    found = {field: next((lower[n] for n in names if n in lower), None) for field, names in _LIKELY.items()}
    if found["prompt"] and found["completion"]:
        return {field: str(found[field]) for field in ("prompt", "completion")}
    return {"text": found["text"]} if found["text"] else {}
