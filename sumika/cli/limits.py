"""`sumika limits`: how much keys, teams and aliases may use."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from sumika.cli import output
from sumika.cli.context import opened
from sumika.cli.output import Json
from sumika.models import audit, clock, limits
from sumika.models.audit import Action
from sumika.models.limits import Limits
from sumika.models.usage import table
from sumika.models.usage.table import Subject

app = typer.Typer(no_args_is_help=True, help="Limits of keys, teams and aliases; 0 takes a limit away.")
Kind = Annotated[str, typer.Argument(help="key, team or alias.")]
Name = Annotated[str, typer.Argument(help="A key's id, or the name of a team or an alias.")]
Number = Annotated[int | None, typer.Option(min=0)]


@app.command("set")
def set_limits(
    kind: Kind,
    name: Name,
    requests_per_minute: Number = None,
    tokens_per_minute: Number = None,
    streams: Annotated[int | None, typer.Option(min=0, help="Requests under way at once.")] = None,
    tokens_per_month: Number = None,
    weight: Annotated[
        int | None, typer.Option(min=0, help="Share where requests wait for a full engine; 1 where not set.")
    ] = None,
    priority: Annotated[str | None, typer.Option(help="interactive or batch; 0 takes it away.")] = None,
    json: Json = False,
) -> None:
    """Set what is given and leave the rest as it is; it counts within a moment, on every worker."""
    given = {
        "requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute, "streams": streams,
        "tokens_per_month": tokens_per_month, "weight": weight, "priority": priority,
    }  # fmt: skip
    changes = {of: None if value in (0, "0") else value for of, value in given.items() if value is not None}
    if not changes:
        raise typer.BadParameter("give at least one limit")
    subject = limits.check_subject(kind, name)
    with opened() as (_, store), audit.refusals(store, Action.LIMITS_SET, f"{kind}:{name}"), store.write() as connection:
        limits.check_there(connection, subject)
        now = limits.set_limits(connection, subject, changes)
    if json:
        output.print_json(_row(subject, now))
    else:
        told = ", ".join(f"{of} {value:,}" if isinstance(value, int) else f"{of} {value}" for of, value in _set(now).items())
        output.say(f"{kind} {name}: {told or 'no limits'}", f"{kind} {name}: {told or '上限なし'}")


@app.command("list")
def list_limits(json: Json = False) -> None:
    """All limits, and what was used of the month's tokens."""
    with opened() as (_, store), store.read() as connection:
        found = limits.list_all(connection)
        spent = table.spent(connection, table.month_of(clock.now()))
    rows = [_row(subject, one) | {"tokens_this_month": spent.get(subject, 0)} for subject, one in found.items()]
    if json:
        output.print_json(rows)
        return
    heads = ("", "name", "requests/min", "tokens/min", "streams", "tokens/month", "weight", "priority", "used this month")
    output.print_table(heads, [list(row.values()) for row in rows], ("No limits are set.", "上限は設定されていません。"))


@app.command()
def clear(kind: Kind, name: Name, json: Json = False) -> None:
    """Take every limit of one key, team or alias away."""
    subject = limits.check_subject(kind, name)
    with opened() as (_, store), audit.refusals(store, Action.LIMITS_CLEAR, f"{kind}:{name}"), store.write() as connection:
        limits.clear(connection, subject)
    if json:
        output.print_json(_row(subject, limits.NONE))
    else:
        output.say(f"{kind} {name} has no limits any more.", f"{kind} {name} の上限を解除しました。")


def _row(subject: Subject, of: Limits) -> dict[str, Any]:
    return {"kind": subject[0], "name": subject[1], **asdict(of)}


def _set(of: Limits) -> dict[str, Any]:
    return {name: value for name, value in asdict(of).items() if value is not None}
