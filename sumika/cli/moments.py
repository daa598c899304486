"""Moments as people type them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from sumika.models.errors import quoted

Moment = Annotated[str | None, typer.Option(metavar="WHEN", help="2026-11-23 or 2026-11-23T09:00, in this machine's time zone.")]


def moment(text: str | None) -> datetime | None:
    """With this machine's time zone where the text names none."""
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"'{quoted(text)}': write 2026-11-23 or 2026-11-23T09:00") from None
