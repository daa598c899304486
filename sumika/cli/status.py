"""`sumika status`: what is served, by which engines, and what moved lately."""

from __future__ import annotations

from dataclasses import asdict

import typer

from sumika.cli import output, proof
from sumika.cli.aliases import described
from sumika.cli.context import opened
from sumika.cli.output import Json
from sumika.models import aliases, engines, registry
from sumika.models.aliases import Move


def register(app: typer.Typer) -> None:
    app.command("status")(status)


def status(json: Json = False) -> None:
    """Aliases, engines, open moves and the last ones."""
    with opened() as (_, store), store.read() as connection:
        served = [(alias, registry.by_id(connection, alias.version_id)) for alias in aliases.list_all(connection)]
        rows = [(engine, registry.by_id(connection, engine.base_id)) for engine in engines.list_all(connection)]
        moves = [(m, proof.of(connection, m)) for m in aliases.history(connection, limit=10)]
    if json:
        output.print_json({
            "aliases": [{"alias": a.name, "version": str(v.ref), "generation": a.generation, "moved_at": a.moved_at} for a, v in served],
            "engines": [{**asdict(e), "base": str(b.ref)} for e, b in rows],
            "moves": [described(m) | {"proof": proven} for m, proven in moves],
        })  # fmt: skip
        return
    output.print_table(
        ("alias", "version", "base", "since (UTC)"), [(a.name, v.ref, v.base, a.moved_at[:19]) for a, v in served],
        ("Nothing is served yet. Deploy a version: 'sumika deploy ALIAS NAME@N'.", "まだ何も配備されていません。sumika deploy ALIAS NAME@N で配備できます。"),
    )  # fmt: skip
    output.out().print()
    output.print_table(
        ("engine", "base", "state", "pid", "adapters", "restarts"),
        [(e.id, b.ref, e.state, e.pid, ", ".join(e.adapters), e.restarts) for e, b in rows],
        ("No engine runs. Start Sumika: 'sumika up'.", "エンジンは動いていません。sumika up で起動できます。"),
    )
    for engine, _ in rows:
        if engine.error:
            output.out().print(f"\n{engine.id}: {engine.error}", style="red", highlight=False, markup=False)
    if moves:
        output.out().print()
        output.print_table(
            ("move", "from", "to", "state", "by", "asked (UTC)", "reason"),
            [(m.alias, m.from_ref, m.to_ref, _state(m, proven), m.actor, m.asked_at[:19], m.reason) for m, proven in moves],
            ("", ""),
        )


def _state(move: Move, proven: proof.Proof | None) -> str:
    if move.state == "open":
        return move.step
    return f"{move.state}, {proof.unproven()}" if proven == "unproven" else move.state
