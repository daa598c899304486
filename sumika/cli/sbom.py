"""`sumika sbom` and `sumika licences`: what runs here and under which terms, for those who must say so."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sumika.cli import bill, output
from sumika.cli.context import opened
from sumika.cli.output import Json
from sumika.models import registry
from sumika.models.home import write_atomically
from sumika.models.registry import Version


def register(app: typer.Typer) -> None:
    app.command("sbom")(sbom)
    app.command("licences")(licences)


def sbom(file: Annotated[Path | None, typer.Argument(help="The file to write, instead of the screen.")] = None) -> None:
    """Print the bill of materials (CycloneDX 1.6): every package and model with version, hash and licence."""
    text = bill.bill(bill.packages(), _versions())
    if file is None:
        sys.stdout.write(text + "\n")
        return
    write_atomically(file, f"{text}\n".encode())
    output.say(f"The bill of materials is in {file}.", f"SBOM を {file} に書き出しました。")


def licences(json: Json = False) -> None:
    """List the licence of every package and model; what tells none comes first."""
    rows = [(name, found.version, bill.licence(found.metadata)) for name, found in sorted(bill.packages().items())]
    rows += [(ref.partition("@")[0], ref.partition("@")[2], name) for ref, name in bill.licences_of_models(_versions()).items()]
    rows.sort(key=lambda row: (row[2] != bill.UNKNOWN, row[0]))
    if json:
        output.print_json([{"name": name, "version": version, "licence": licence or None} for name, version, licence in rows])
        return
    unknown = {"en": "tells none: look at its page", "ja": "記載なし(配布元を確認)"}[output.language()]
    output.print_table(["name", "version", "licence"], [(*row[:2], row[2] or unknown) for row in rows], ("", ""))


def _versions() -> list[Version]:
    with opened() as (_, store), store.read() as connection:
        return [version for version in registry.list_all(connection) if version.removed_at is None]
