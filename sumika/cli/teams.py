"""`sumika teams`: what keys and people belong to."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from sumika.cli import output
from sumika.cli.context import opened
from sumika.cli.output import Json
from sumika.models import audit, teams
from sumika.models.audit import Action

app = typer.Typer(no_args_is_help=True, help="Teams.")
Name = Annotated[str, typer.Argument(help="A short name, for example soumu.")]


@app.command()
def create(
    name: Name, title: Annotated[str, typer.Option(help="What people call it, for example 総務部.")] = "", json: Json = False
) -> None:
    """Make a team."""
    with opened() as (_, store), audit.refusals(store, Action.TEAM_CREATE, name), store.write() as connection:
        team = teams.create(connection, name, title)
    if json:
        output.print_json(asdict(team))
    else:
        output.say(f"Team {team.name} is there.", f"チーム {team.name} を作成しました。")


@app.command("list")
def list_teams(json: Json = False) -> None:
    """All teams."""
    with opened() as (_, store), store.read() as connection:
        found = teams.list_all(connection)
    if json:
        output.print_json([asdict(team) for team in found])
        return
    rows = [(team.name, team.title, team.created_at[:10], team.id) for team in found]
    output.print_table(("team", "title", "since", "id"), rows, ("No teams yet.", "チームはまだありません。"))


@app.command()
def remove(name: Name, json: Json = False) -> None:
    """Take away a team that no living key belongs to."""
    with opened() as (_, store), audit.refusals(store, Action.TEAM_REMOVE, name), store.write() as connection:
        team = teams.remove(connection, name)
    if json:
        output.print_json(asdict(team))
    else:
        output.say(f"Team {team.name} is gone.", f"チーム {team.name} を削除しました。")
