"""The data report as files: one HTML page that reaches nowhere, and its counts as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from sumika.finetune.data.histogram import Histogram
from sumika.finetune.data.report import Report
from sumika.models import runfiles
from sumika.models.errors import Language
from sumika.models.home import write_atomically

HTML, JSON = "data-report.html", runfiles.DATA


def keep(report: Report, folder: Path, language: Language = "ja") -> Path:
    """Write both into `folder`, readable by their owner alone: the page shows rows of the data. Returns the page's path."""
    write_atomically(folder / JSON, json.dumps(report.as_dict(), ensure_ascii=False, indent=1).encode() + b"\n", mode=0o600)
    write_atomically(folder / HTML, page(report, language).encode(), mode=0o600)
    return folder / HTML


def page(report: Report, language: Language = "ja") -> str:
    """The report in Japanese and English; `language` is the one it opens in."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("sumika.finetune.data", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )  # fmt: skip
    environment.filters["n"] = lambda number: f"{number:,}"
    environment.globals["t"] = _both
    environment.globals["bars"] = _bars
    return environment.get_template("report.html.jinja").render(report=report, tokens=report.tokens(), language=language)


def _both(en: object, ja: object) -> Markup:
    """A label in both languages; the page's style shows one."""
    return Markup('<span lang="en">{}</span><span lang="ja">{}</span>').format(escape(en), escape(ja))


def _bars(histogram: dict[str, Any], limit: int | None = None) -> dict[str, Any]:
    """What the template draws: bars of a plot 600 × 140, and where the limit stands in it."""
    shape = Histogram(histogram["edges"], histogram["rows"])
    most, bins = max(shape.counts, default=1), max(len(shape.counts), 1)
    width = 600 / bins
    bars = [
        {"x": n * width, "width": width - 1.5, "height": 140 * count / most, "from": shape.edges[n], "to": shape.edges[n + 1] - 1, "rows": count}
        for n, count in enumerate(shape.counts)
    ]  # fmt: skip
    span = shape.edges[-1] - shape.edges[0]
    inside = limit is not None and span > 0 and shape.edges[0] <= limit <= shape.edges[-1]
    return {"bars": bars, "low": shape.edges[0], "high": shape.edges[-1] - 1, "most": most,
            "limit": 600 * (limit - shape.edges[0]) / span if inside and limit is not None else None}  # fmt: skip
