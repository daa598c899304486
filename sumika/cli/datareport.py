"""The data report on the terminal: tables, warnings, and rows with their trained tokens in colour."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from sumika.cli import output
from sumika.finetune.data.report import Report
from sumika.finetune.data.samples import Piece

_TEXT = 600  # characters shown of a row


def show(report: Report) -> None:
    tokens = report.tokens()
    output.print_table(("file", "format", "encoding", "rows", "columns not used"), [
        (file.path, file.format or "", "" if file.encoding == "binary" else file.encoding, f"{file.rows:,}", ", ".join(sorted(file.unused)))
        for file in (*report.files, *report.held_out_files)
    ], ("", ""))  # fmt: skip
    output.out().print()
    output.print_table(("source", "weight", "rows", "shown per epoch"), [
        (source.path, source.weight, f"{source.rows:,}", f"{source.seen:,}") for source in report.sources
    ], ("", ""))  # fmt: skip
    output.out().print()
    output.print_table(("rows and tokens", ""), [
        ("rows read / refused / dropped / kept", f"{report.read:,} / {report.refused:,} / {report.dropped.total():,} / {report.kept:,}"),
        ("cut to fit", f"{report.truncated:,} rows, {report.tokens_cut:,} tokens lost"),
        ("tokens a row: median / 95% / longest", f"{tokens['median']:,} / {tokens['p95']:,} / {tokens['longest']:,} (limit {report.limit or 'none'})"),
        ("trained tokens: all / least / most in a row", f"{tokens['trained']:,} / {tokens['trained_least']:,} / {tokens['trained_most']:,}"),
        ("repeated exactly / nearly", f"{report.duplicates['exact']:,} / {report.duplicates['near']:,}"),
        ("held-out questions / trained on / nearly", f"{report.held_out:,} / {report.leaks['exact']:,} / {report.leaks['near']:,}"),
        ("languages", _counts(dict(report.languages))),
        ("forms of characters", _counts(dict(report.forms)) or "nothing unusual"),
        ("personal data", _counts({kind: count["found"] for kind, count in report.pii.items() if count["found"]}) or "none found"),
    ], ("", ""))  # fmt: skip
    _show_samples(report)
    show_warnings(report)


def show_warnings(report: Report) -> None:
    for warning in report.warnings():
        output.out().print(Text.assemble(("! ", "bold yellow"), output.plain(warning.text(output.language()))))


def _show_samples(report: Report) -> None:
    output.say(
        "\nAs the model sees it ([bold green]trained[/], [dim]only read[/]):",
        "\nモデルから見た行([bold green]学習する部分[/]、[dim]読むだけの部分[/]):",
    )
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for sample in report.samples[:3]:
        table.add_row(output.plain(sample.where), _coloured(sample.pieces))
        if sample.rejected:
            table.add_row(Text("rejected", "red"), _coloured(sample.rejected))
    output.out().print(table)


def _coloured(pieces: list[Piece]) -> Text:
    shown, left = Text(), _TEXT
    for piece in pieces:
        style = "bold green" if piece.trained else "dim"
        lines = [output.plain(line) for line in piece.text[:left].split("\n")]
        shown.append_text(Text("\n").join(lines)).stylize(style, len(shown) - sum(map(len, lines)) - len(lines) + 1)
        left -= len(piece.text)
        if left <= 0:
            return shown.append("…")
    return shown


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items(), key=lambda pair: -pair[1]))
