"""Figures as people read them: filters of the templates."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from datetime import datetime
from typing import Any

from markupsafe import Markup

from sumika.models import clock
from sumika.models.errors import Language, quoted

_NONE = "–"
# Thai, Hebrew and Vietnamese put three on a letter; more is a joke or an attack.
_MOST_MARKS = 4


def number(value: float | None, digits: int = 0) -> str:
    """1,234,567."""
    return _NONE if value is None else f"{value:,.{digits}f}"


def written(value: float | None) -> str:
    """A number as somebody would write it into a field: 3,500,000, 0.05; nothing where there is none."""
    return "" if value is None else f"{value:,.9f}".rstrip("0").rstrip(".")


def size(count: float | None) -> str:
    """Bytes, in the unit that gives one to four figures before the point."""
    if count is None:
        return _NONE
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count:,.0f} B"


def yen(value: float | None) -> str:
    """Without decimals, but for amounts below ten."""
    if value is None:
        return _NONE
    return f"¥{value:,.2f}" if 0 < value < 10 else f"¥{value:,.0f}"


def many(value: float | None, language: Language) -> str:
    """A large count as the charts write it: 49.2億, 4.9B."""
    if value is None:
        return _NONE
    units = ((1e12, "兆"), (1e8, "億"), (1e4, "万")) if language == "ja" else ((1e12, "T"), (1e9, "B"), (1e6, "M"))
    for factor, unit in units:
        if value >= factor:
            return f"{value / factor:,.1f}{unit}"
    return f"{value:,.0f}"


def percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f}%" if whole else _NONE


def moment(spelt: str | None, exact: bool = False) -> Markup | str:
    """A moment of the store, in this machine's time zone; `exact`: to the second."""
    if not spelt:
        return _NONE
    local = clock.parse(spelt).astimezone()
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        spelt, local.strftime("%Y-%m-%d %H:%M:%S %z"), _short(local, exact)
    )


def seconds(value: float | None) -> str:
    """1:02:03, 4:05."""
    if value is None:
        return _NONE
    minutes, rest = divmod(int(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def brief(text: str | None, length: int = 12) -> str:
    """The beginning of a hash."""
    return _NONE if not text else text if len(text) <= length else f"{text[:length]}…"


def told(text: str | None, most: int = 300) -> str:
    """Somebody's own words, as a page can bear them: cut, no more than a few marks on one letter, and what can't be seen
    (controls, overrides of the direction) spelled out. Templates escape it and put it into a `<bdi>`."""
    if not text:
        return _NONE
    kept, marks = [], 0
    for letter in text[: 4 * most]:
        marks = marks + 1 if unicodedata.category(letter) in ("Mn", "Me") else 0
        if marks <= _MOST_MARKS:
            kept.append(letter)
    return quoted("".join(kept), most) + ("…" if len(text) > 4 * most > len(kept) else "")


def at(value: Any, path: str) -> Any:
    """What lies under a dotted path; None where metadata, which may come from anybody's archive, has another shape."""
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def plain(value: object) -> str:
    """Any fact: fractions to six significant figures, nothing as a dash."""
    return _NONE if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _short(local: datetime, exact: bool) -> str:
    same_year = local.year == datetime.now().astimezone().year
    return local.strftime(("%m/%d %H:%M" if same_year else "%Y/%m/%d %H:%M") + (":%S" if exact else ""))


FILTERS: dict[str, Callable[..., Any]] = {
    "number": number, "written": written, "size": size, "yen": yen, "many": many, "moment": moment, "seconds": seconds, "brief": brief, "at": at,
    "plain": plain, "told": told,
}  # fmt: skip
