"""`sumika aliases`: what each serves, and whose it is."""

from __future__ import annotations

from typing import Annotated

import typer

from sumika.cli import output
from sumika.cli.context import opened
from sumika.cli.output import Json
from sumika.models import aliases, audit, registry, teams
from sumika.models.audit import Action

app = typer.Typer(no_args_is_help=True, help="Aliases, and whose they are.")
Alias = Annotated[str, typer.Argument(help="The name apps call.")]


@app.command("list")
def list_aliases(json: Json = False) -> None:
    """All aliases, what they serve, and whose they are."""
    with opened() as (_, store), store.read() as connection:
        found, names = aliases.list_all(connection), teams.names(connection)
        versions = registry.by_ids(connection, {alias.version_id for alias in found})
    rows = [(one.name, str(versions[one.version_id].ref), names.get(one.owner or "", one.owner)) for one in found]
    if json:
        output.print_json([{"alias": name, "version": version, "owner": owner} for name, version, owner in rows])
        return
    output.print_table(("alias", "version", "owner"), rows, ("No aliases yet.", "エイリアスはまだありません。"))


@app.command()
def assign(
    alias: Alias,
    team: Annotated[str | None, typer.Argument(help="The team that may move it; none: administrators alone.")] = None,
    json: Json = False,
) -> None:
    """Give ALIAS to a team: its engineers, and administrators, may move it."""
    with opened() as (_, store), audit.refusals(store, Action.ALIAS_ASSIGN, alias), store.write() as connection:
        owner = None if team is None else teams.get(connection, team, lock=True).id
        aliases.assign(connection, alias, owner)
    if json:
        output.print_json({"alias": alias, "team": team})
    elif team is None:
        output.say(f"{alias} is moved by administrators alone.", f"{alias} を切り替えられるのは管理者だけです。")
    else:
        output.say(f"{alias} is {team}'s.", f"{alias} を {team} に割り当てました。")
