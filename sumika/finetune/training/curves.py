"""The loss curve as a picture in the run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PICTURE = "loss.png"


def draw(lines: list[dict[str, Any]], target: Path) -> None:
    """Loss (and held-out loss, where it was measured) against optimiser steps, as a PNG of 1200 x 675 pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for key, label, style in (
        ("loss", "training", {"color": "#2f6f4f", "lw": 1.5}),
        ("eval_loss", "held out", {"color": "#b4532a", "marker": "o"}),
    ):
        points = [(line["step"], line[key]) for line in lines if key in line]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, **style)
    axes.set(xlabel="optimiser step", ylabel="loss (nats per trained token)")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.legend(frameon=False)
    figure.savefig(target)
