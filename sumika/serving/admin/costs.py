"""`/admin/v1/costs`: what a month's real traffic would have cost at API prices, beside a server's cost, and where they meet.
`/admin/v1/prices`: the sheet that it is reckoned with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime, time
from typing import Annotated, Any

from fastapi import APIRouter, Query

from sumika.models import audit, clock, prices
from sumika.models.audit import Action
from sumika.models.home import Home
from sumika.models.prices import Api, Prices, Server, Tokens
from sumika.models.settings import Settings
from sumika.models.store import LONG_STATEMENT_S, Store
from sumika.models.usage import report, table
from sumika.models.usage.report import Span
from sumika.serving.admin.asking import Asker, actor

_Month = Annotated[str, Query(pattern=r"^(\d{4}-(0[1-9]|1[0-2]))?$")]
_POINTS = 97


def router(store: Store, settings: Settings) -> APIRouter:
    routes = APIRouter()
    _add_prices(routes, store, settings.layout)

    @routes.get("/costs")
    def costs(month: _Month = "", server: Annotated[int, Query(ge=0, le=99)] = 0) -> dict[str, Any]:
        """Yen. `chart`: tokens a month (x) against yen a month for each API and for the server; `mix_is_example` where the month
        had no traffic to take the mix of prompt and completion from."""
        sheet = prices.current(settings.layout)
        month = month or table.month_of(clock.now())
        tokens = _tokens(store, month)
        chosen = sheet.servers[min(server, len(sheet.servers) - 1)]
        parts, mix = chosen.parts(), tokens if tokens.total else prices.EXAMPLE
        own, rate = sum(parts.values()), sheet.yen_per_usd.value
        meets = {api.name: prices.break_even(api, own, mix, rate) for api in sheet.apis}
        return {
            "month": month, "date": sheet.date.isoformat(), "yen_per_usd": sheet.yen_per_usd.model_dump(), "tokens": tokens.model_dump(),
            "mix_is_example": not tokens.total, "servers": [one.name for one in sheet.servers], "server": chosen.model_dump(),
            "own": {"month": own, "parts": parts}, "own_sheet": prices.is_own(settings.layout),
            "apis": [api.model_dump() | {"yen": api.yen(tokens, rate), "break_even": meets[api.name]} for api in sheet.apis],
            "chart": _chart(sheet.apis, own, mix, rate, [meet for meet in meets.values() if meet]),
        }  # fmt: skip

    return routes


def _add_prices(routes: APIRouter, store: Store, home: Home) -> None:
    @routes.get("/prices")
    def show() -> dict[str, Any]:
        """`own`: an administrator's, kept in the home; else the one of `configs/`."""
        return prices.current(home).model_dump(mode="json") | {"own": prices.is_own(home)}

    @routes.post("/prices")
    def keep(who: Asker, sheet: Prices) -> dict[str, Any]:
        with audit.told(store, Action.PRICES_SET, "prices", actor(who)) as told:
            told |= _changes(prices.current(home), sheet)
            prices.keep(home, sheet)
        return show()

    @routes.delete("/prices")
    def reset(who: Asker) -> dict[str, Any]:
        """Back to the sheet of `configs/`."""
        with audit.told(store, Action.PRICES_RESET, "prices", actor(who)):
            prices.forget(home)
        return show()


def _changes(before: Prices, after: Prices) -> dict[str, Any]:
    """For the log: the sheet's date, and which of its entries are not as they were."""
    apis = _differing({one.name: one for one in before.apis}, {one.name: one for one in after.apis})
    servers = _differing({one.name: one for one in before.servers}, {one.name: one for one in after.servers})
    return {"date": after.date.isoformat(), "yen_per_usd": f"{after.yen_per_usd.value:g}", "apis": apis, "servers": servers}


def _differing(old: Mapping[str, Api | Server], new: Mapping[str, Api | Server]) -> str | None:
    return ", ".join(sorted(name for name in {*old, *new} if old.get(name) != new.get(name)))[:500] or None


def _tokens(store: Store, month: str) -> Tokens:
    """Of one month of this machine's time zone."""
    year, number = map(int, month.split("-"))
    after = date(year + number // 12, number % 12 + 1, 1)
    begin, end = (datetime.combine(day, time()).astimezone() for day in (date(year, number, 1), after))
    with store.read(statement_s=LONG_STATEMENT_S) as connection:
        rows = report.sums(connection, [], Span(begin, end))
    row = rows[0] if rows else {"prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 0}
    return Tokens(prompt=row["prompt_tokens"], cached=row["cached_tokens"], completion=row["completion_tokens"])


def _chart(apis: list[Api], own: float, mix: Tokens, rate: float, meets: list[float]) -> dict[str, Any]:
    """From the power of ten below the first place where an API meets the server to the one above the last, in equal ratios."""
    low = 10.0 ** math.floor(math.log10(min(meets, default=1e7) / 2))
    high = 10.0 ** math.ceil(math.log10(max(meets, default=1e9) * 2))
    x = [low * (high / low) ** (n / (_POINTS - 1)) for n in range(_POINTS)]
    each = {api.name: api.yen(mix, rate) / mix.total for api in apis}
    return {"tokens": x, "own": own, "apis": {name: [tokens * price for tokens in x] for name, price in each.items()}}
