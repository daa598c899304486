"""`sumika status`: what is served, by which engines, and what moved lately."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import typer

from sumika.cli import output, proof
from sumika.cli.context import opened
from sumika.cli.output import Json
from sumika.models import aliases, engines, moves, registry
from sumika.models.aliases import Alias
from sumika.models.engines import EngineRow
from sumika.models.moves import Move
from sumika.models.registry import Version

_GIB = 2**30


def register(app: typer.Typer) -> None:
    app.command("status")(status)


def status(json: Json = False) -> None:
    """Aliases, engines, open moves and the last ones."""
    with opened() as (_, store), store.read() as connection:
        pointed, rows = aliases.list_all(connection), engines.list_all(connection)
        ids = {a.version_id for a in pointed} | {a.canary_id for a in pointed if a.canary_id} | {e.base_id for e in rows}
        versions = registry.by_ids(connection, ids)
        recent = [(m, proof.of(connection, m)) for m in moves.history(connection, limit=10)]
    if json:
        output.print_json({
            "aliases": [_alias(alias, versions) for alias in pointed],
            "engines": [{**asdict(e), "base": str(versions[e.base_id].ref)} for e in rows],
            "moves": [move.shown() | {"proof": proven} for move, proven in recent],
        })  # fmt: skip
        return
    _print_aliases(pointed, versions)
    output.out().print()
    _print_engines(rows, versions)
    if recent:
        output.out().print()
        _print_moves(recent)


def _alias(alias: Alias, versions: dict[int, Version]) -> dict[str, object]:
    canary = {"version": str(versions[alias.canary_id].ref), "share": alias.canary_share} if alias.canary_id else None
    return {
        "alias": alias.name, "version": str(versions[alias.version_id].ref), "generation": alias.generation,
        "moved_at": alias.moved_at, "canary": canary,
    }  # fmt: skip


def _print_aliases(pointed: Sequence[Alias], versions: dict[int, Version]) -> None:
    def canary(alias: Alias) -> str:
        return f"{alias.canary_share} % {versions[alias.canary_id].ref}" if alias.canary_id else ""

    rows = [(a.name, versions[a.version_id].ref, versions[a.version_id].base, canary(a), a.moved_at[:19]) for a in pointed]
    output.print_table(
        ("alias", "version", "base", "canary", "since (UTC)"), rows,
        ("Nothing is served yet. Deploy a version: 'sumika deploy ALIAS NAME@N'.", "まだ何も配備されていません。sumika deploy ALIAS NAME@N で配備できます。"),
    )  # fmt: skip


def _print_engines(rows: Sequence[EngineRow], versions: dict[int, Version]) -> None:
    shown = [
        (e.id, versions[e.base_id].ref, e.state, "" if e.gpu is None else f"GPU {e.gpu}", f"{(e.memory or 0) / _GIB:.1f}", e.pid,
         _few(e.adapters), e.restarts)
        for e in rows
    ]  # fmt: skip
    output.print_table(
        ("engine", "base", "state", "on", "GiB", "pid", "adapters", "restarts"), shown,
        ("No engine runs. Start Sumika: 'sumika up'.", "エンジンは動いていません。sumika up で起動できます。"),
    )  # fmt: skip
    for engine in rows:
        if engine.error:
            output.out().print(f"\n{engine.id}: {engine.error}", style="red", highlight=False, markup=False)


def _few(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" … {len(names)}" if len(names) > most else "")


def _print_moves(recent: Sequence[tuple[Move, proof.Proof | None]]) -> None:
    rows = [
        (m.alias, m.kind, m.from_ref, m.to_ref, _state(m, proven), m.actor, m.asked_at[:19], m.reason) for m, proven in recent
    ]
    output.print_table(("alias", "move", "from", "to", "state", "by", "asked (UTC)", "reason"), rows, ("", ""))


def _state(move: Move, proven: proof.Proof | None) -> str:
    if move.state == "open":
        return move.step
    return f"{move.state}, {proof.unproven()}" if proven == "unproven" else move.state
