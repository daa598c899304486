"""`sumika usage`: who used how much."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import typer

from sumika.cli import output, table_files
from sumika.cli.context import opened
from sumika.cli.moments import Moment, moment
from sumika.cli.output import Json
from sumika.models import audit, keys
from sumika.models.audit import Action
from sumika.models.store import LONG_STATEMENT_S, Store
from sumika.models.usage import report
from sumika.models.usage.report import Span
from sumika.serving.clerk import Clerk

_HEADS = {
    "partial": "part.", "estimated": "est.", "prompt_tokens": "prompt", "cached_tokens": "cached", "completion_tokens": "completion",
    "reasoning_tokens": "reasoning", "first_ms": "first ms", "duration_ms": "ms",
}  # fmt: skip


def register(app: typer.Typer) -> None:
    app.command("usage")(usage)


def usage(
    by: Annotated[
        str, typer.Option(help=f"Columns to sum by, with commas: {', '.join([*report.COLUMNS, report.DAY])}.")
    ] = "team,alias,day",
    since: Moment = None,
    until: Moment = None,
    csv: Annotated[str | None, typer.Option(metavar="FILE", help="Write CSV for Excel; '-' is standard output.")] = None,
    json: Json = False,
) -> None:
    """Requests and tokens by team, alias and day, or what you name; days are of this machine's time zone."""
    names = [name.strip() for name in by.split(",") if name.strip()]
    report.check(names)
    with opened() as (settings, store):
        clerk = Clerk(settings, store)
        clerk.drain()  # what a gateway left that was killed and not started again
        clerk.sign()
        rows = _rows(store, names, Span(moment(since), moment(until)))
        with store.write() as connection:
            audit.append(connection, Action.USAGE_READ, ",".join(names), details={"since": since or "", "until": until or ""})
    columns = [*names, *(["key_name"] if "key" in names else []), *report.FIGURES]
    if csv is not None:
        table_files.write_csv(csv, columns, ([row[name] for name in columns] for row in rows))
    elif json:
        output.print_json({"time_zone": _zone(), "by": names, "rows": rows})
    else:
        cells = ([row[name] for name in columns] for row in rows)
        output.print_table([_HEADS.get(name, name) for name in columns], cells, ("No requests.", "リクエストはありません。"))
        if report.DAY in names and rows:
            output.say(f"Days are of this machine's time zone ({_zone()}).", f"日付はこのサーバーのタイムゾーン({_zone()})です。")


def _rows(store: Store, names: list[str], span: Span) -> list[dict[str, Any]]:
    with store.read(statement_s=LONG_STATEMENT_S) as connection:
        found = report.sums(connection, names, span)
        called = {key.id: key.name for key in keys.list_all(connection)} if "key" in names else {}
    return [row | {"key_name": called.get(row["key"])} for row in found] if "key" in names else found


def _zone() -> str:
    now = datetime.now().astimezone()
    return f"{now.tzname()}, UTC{now.strftime('%z')[:3]}:{now.strftime('%z')[3:]}"
