"""`sumika models catalog`: the models that Sumika knows, their licences, and which of them this machine can serve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from sumika.cli import output
from sumika.cli.context import opened
from sumika.cli.output import Json
from sumika.models import catalog
from sumika.models.catalog import CatalogEntry
from sumika.serving import machine

_GIB = 2**30
_THOUSAND = 1_000
# Of a commit, in the table.
_SHORT = 8
_COLUMNS = ("id", "task", "parameters", "weights", "KV/1,000 tokens", "revision", "commercial", "fits", "checked", "licence")


def register(app: typer.Typer) -> None:
    app.command("catalog")(show)


def show(
    entry: Annotated[str | None, typer.Argument(metavar="[ID]", help="One entry, with all that is known of it.")] = None,
    json: Json = False,
) -> None:
    """The catalog: which models there are, on what terms, and which fit this machine."""
    with opened() as (settings, _):
        seen = machine.look(settings.layout.root)
        share = settings.engine.gpu_memory_utilization
    found = catalog.entries() if entry is None else [catalog.find(entry)]
    fitting = {e.id: machine.fits(e.parameters, seen, e.kv_bytes, share) for e in found}
    if json:
        output.print_json([_whole(e, fitting[e.id]) for e in found])
    elif entry is not None:
        output.out().print_json(data=_whole(found[0], fitting[found[0].id]), ensure_ascii=False, default=str)
    else:
        _print_table([_COLUMNS, *(_row(e, fitting[e.id]) for e in found)])


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Whole lines: ten columns don't fit 80 characters, and a table that is cropped to them loses figures."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        output.out().print(line.rstrip(), soft_wrap=True, highlight=False, markup=False)


def _whole(entry: CatalogEntry, fits: bool) -> dict[str, Any]:
    """The entry as it stands in its file, and what follows from it."""
    return {
        **entry.model_dump(mode="json"), "weights_bytes": entry.weights_bytes, "kv_bytes_served_context": entry.kv_bytes,
        "fits": fits,
    }  # fmt: skip


def _row(entry: CatalogEntry, fits: bool) -> tuple[str, ...]:
    kv = entry.kv_bytes_per_token
    return (
        entry.id,
        entry.task,
        f"{entry.parameters / 1e9:.2f} B",
        f"{entry.weights_bytes / _GIB:.1f} GiB",
        "?" if kv is None else f"{kv * _THOUSAND / _GIB:.3f} GiB",
        (entry.source.revision or "")[:_SHORT] or ("package" if entry.source.pinned else catalog.UNPINNED),
        entry.licence.commercial,
        "✓" if fits else "✗",
        "✓" if entry.checked.served else "unverified",
        entry.licence.id,
    )
