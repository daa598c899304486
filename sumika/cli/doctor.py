"""`sumika doctor`: what this machine can do, what stands in the way, and which models fit."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from sumika.cli import output
from sumika.cli.checkup import gathered
from sumika.cli.output import Json
from sumika.models import catalog
from sumika.models.settings import load_settings
from sumika.serving import machine

_GIB = 2**30
_MARKS = {"ok": "[green]✓[/]", "warn": "[yellow]![/]", "fail": "[red]✗[/]"}


def register(app: typer.Typer) -> None:
    app.command("doctor")(doctor)


def doctor(
    deep: Annotated[bool, typer.Option("--deep", help="Also verify the whole audit log and every model's files.")] = False,
    json: Json = False,
) -> None:
    """Check this machine and this home, changing nothing; exit code 1 where something must be mended."""
    settings = load_settings()
    seen = machine.look(gathered.existing(settings.layout.root))
    findings = [*gathered.of_machine(seen), *gathered.of_installation(settings, seen, deep=deep)]
    entries = catalog.entries()
    fitting = {
        entry.id: machine.fits(entry.parameters, seen, entry.kv_bytes, settings.engine.gpu_memory_utilization)
        for entry in entries
    }
    healthy = all(finding.level != "fail" for finding in findings)
    if json:
        output.print_json(
            {"healthy": healthy, "machine": asdict(seen), "findings": [asdict(f) for f in findings], "fits": fitting}
        )
    else:
        for finding in findings:
            told = output.plain(finding.ja if output.language() == "ja" else finding.en)
            output.out().print(_MARKS[finding.level], told, highlight=False)
        output.out().print()
        rows: list[tuple[Any, ...]] = [
            (
                "✓" if fitting[e.id] else "✗",
                e.id,
                f"{e.parameters / 1e9:.2f} B",
                f"{e.weights_bytes / _GIB:.1f} GiB",
                "" if e.source.pinned else catalog.UNPINNED,
            )
            for e in entries
        ]
        output.print_table(
            ("fits", "model", "parameters", "bf16 weights", "revision"), rows, ("The catalog is empty.", "カタログは空です。")
        )
    if not healthy:
        raise typer.Exit(1)
