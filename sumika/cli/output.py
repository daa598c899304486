"""How commands speak: tables for people, `--json` for programs, errors in the person's language with an exit code."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from sumika.models.artifacts import Progress as Told
from sumika.models.errors import Language, SumikaError

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

# sysexits.h where one fits, so that scripts can tell the kinds of failure apart.
_EXIT = {"bad_config": 78, "not_found": 66, "store_unavailable": 69, "disk_full": 74, "home_denied": 77}
_FAILED = 1


def language() -> Language:
    """`SUMIKA_LANG`, else the locale."""
    for name in ("SUMIKA_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        if value := os.environ.get(name):
            return "ja" if value.lower().startswith("ja") else "en"
    return "en"


def out() -> Console:
    return Console()


def err() -> Console:
    return Console(stderr=True)


def say(en: str, ja: str) -> None:
    out().print(ja if language() == "ja" else en, highlight=False)


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: tuple[str, str]) -> None:
    """A table, or what to do next where there is nothing to show."""
    rows = list(rows)
    if not rows:
        say(*empty)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, column in enumerate(columns, start=1):
        table.add_column(column, overflow="fold", no_wrap=number < len(columns))
    for row in rows:
        table.add_row(*("" if cell is None else plain(str(cell)) for cell in row))
    out().print(table)


@contextmanager
def copy_progress(en: str, ja: str) -> Iterator[Told]:
    """A bar on stderr for something that is told in bytes."""
    bar = Progress(
        TextColumn(escape(ja if language() == "ja" else en)), BarColumn(), TaskProgressColumn(), DownloadColumn(), TimeRemainingColumn(),
        console=err(), transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def waiting(en: str, ja: str) -> Iterator[None]:
    """A spinner on stderr for something that takes a while."""
    with err().status(escape(ja if language() == "ja" else en)):
        yield


def warn(en: str, ja: str) -> None:
    err().print(f"[bold yellow]![/] {_escaped(ja if language() == 'ja' else en)}", highlight=False, soft_wrap=True)


def fail(error: SumikaError) -> typer.Exit:
    """Tell the error and give the exit to raise."""
    err().print(f"[bold red]✗[/] {_escaped(error.text(language()))}", highlight=False, soft_wrap=True)
    return typer.Exit(_EXIT.get(error.code, _FAILED))


def plain(text: str) -> Text:
    """What somebody wrote, as it is: no markup, and nothing that moves the cursor."""
    return Text("".join(c if unicodedata.category(c)[0] != "C" else c.encode("unicode_escape").decode() for c in text))


def plain_lines(text: str) -> Text:
    """The same, with its line breaks."""
    return Text("\n").join(plain(line) for line in text.split("\n"))


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")
