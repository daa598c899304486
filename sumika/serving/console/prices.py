"""`/console/costs/prices`: the price sheet as a form: a column of fields for the APIs, and one for the servers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from starlette.responses import Response

from sumika.models.errors import SumikaError, quoted
from sumika.models.prices import FIGURES
from sumika.serving.console.api import Api
from sumika.serving.console.asking import Asker
from sumika.serving.console.pages import Pages

_NUMBER = re.compile(r"\d{1,15}(\.\d{1,9})?", re.ASCII)
_MOST_FIELDS = 1500

Columns = Mapping[str, list[str]]


def router(pages: Pages, api: Api) -> APIRouter:
    routes = APIRouter(prefix="/costs/prices")

    @routes.get("")
    async def show(request: Request, who: Asker) -> Response:
        today = datetime.now().astimezone().date().isoformat()
        return pages.show(request, "prices.html", sheet=await api.get(who, "prices"), figures=FIGURES, today=today)

    @routes.post("")
    async def keep(request: Request, who: Asker) -> Response:
        given = parse_qs((await request.body()).decode("ascii"), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
        await api.post(who, "prices", **sheet({name: [one.strip() for one in column] for name, column in given.items()}))
        return pages.goes_to(request, "/console/costs")

    @routes.post("/reset")
    async def reset(request: Request, who: Asker) -> Response:
        await api.delete(who, "prices")
        return pages.goes_to(request, "/console/costs")

    return routes


def sheet(columns: Columns) -> dict[str, Any]:
    """What the form gives, as the API takes it. Rows without a name are left out.

    Raises:
        SumikaError: `bad_price`, naming the row and the field.
    """
    return {
        "date": _day(_cell(columns, "date", 0)),
        "yen_per_usd": _figure(columns, "yen_per_usd", 0, "yen_per_usd"),
        "apis": [_api(columns, row, name) for row, name in enumerate(columns.get("api", [])) if name],
        "servers": [
            {"name": name} | {figure: _figure(columns, figure, row, name) for figure in FIGURES}
            for row, name in enumerate(columns.get("server", []))
            if name
        ],
    }


def _api(columns: Columns, row: int, name: str) -> dict[str, Any]:
    cached = _cell(columns, "cached", row)
    return {
        "name": name, "vendor": _cell(columns, "vendor", row), "currency": _cell(columns, "currency", row),
        "input": _number(_cell(columns, "input", row), name, "input"), "output": _number(_cell(columns, "output", row), name, "output"),
        "cached": _number(cached, name, "cached") if cached else None, "source": _source(_cell(columns, "api_source", row), name, "source"),
    }  # fmt: skip


def _figure(columns: Columns, field: str, row: int, name: str) -> dict[str, Any]:
    value, source = _cell(columns, field, row), _cell(columns, f"{field}_source", row)
    return {"value": _number(value, name, field), "source": _source(source, name, field)}


def _cell(columns: Columns, field: str, row: int) -> str:
    column = columns.get(field, [])
    return column[row] if row < len(column) else ""


def _number(given: str, name: str, field: str) -> float:
    """As people write it, 3,500,000 too."""
    plain = given.replace(",", "")
    if not _NUMBER.fullmatch(plain):
        raise _bad(
            name, field, "write a number from 0, such as 1,200 or 0.5", "0以上の数を 1,200 や 0.5 のように入力してください"
        )
    return float(plain)


def _source(given: str, name: str, field: str) -> str:
    if not given:
        raise _bad(name, field, "say where the number comes from", "数値の出典を入力してください")
    return given


def _day(given: str) -> str:
    try:
        return date.fromisoformat(given).isoformat()
    except ValueError:
        raise _bad("date", "date", "write a day such as 2026-11-01", "日付を 2026-11-01 のように入力してください") from None


def _bad(name: str, field: str, en: str, ja: str) -> SumikaError:
    where = quoted(name, 60) if name == field else f"{quoted(name, 60)}, {field}"
    return SumikaError("bad_price", f"{where}: {en}.", f"{where}: {ja}。", param=field)
