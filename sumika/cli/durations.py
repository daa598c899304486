"""How people write a span of time: 30m, 24h, 7d."""

from __future__ import annotations

import re
from datetime import timedelta

from sumika.models.errors import SumikaError, quoted

_UNITS = {"": "seconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_SPAN = re.compile(r"([0-9]{1,6})([smhd]?)", re.ASCII)


def duration(text: str) -> timedelta:
    """Raises SumikaError `bad_duration`."""
    found = _SPAN.fullmatch(text)
    if found is None:
        raise SumikaError(
            "bad_duration",
            f"'{quoted(text, 40)}' is no span of time; write 30m, 24h or 7d.",
            f"「{quoted(text, 40)}」は期間として読めません。30m、24h、7d のように書いてください。",
        )
    return timedelta(**{_UNITS[found[2]]: int(found[1])})
