"""Rent or own: what tokens cost at API prices, beside what a server costs. Every number comes from a dated sheet that people edit."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from sumika.models import yamlfile

_HOURS = 8_760
_MILLION = 1_000_000


class _Sheet(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Figure(_Sheet):
    """One number, and where it comes from."""

    value: float = Field(ge=0)
    source: str = Field(min_length=1)


class Api(_Sheet):
    """List prices for a million tokens. `cached`: of the prompt's tokens that were read from a cache; `input` where not given."""

    name: str
    vendor: str
    currency: Literal["USD", "JPY"]
    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached: float | None = Field(default=None, ge=0)
    source: str = Field(min_length=1)

    def yen(self, tokens: Tokens, yen_per_usd: float) -> float:
        """What `tokens` cost."""
        cached = self.input if self.cached is None else self.cached
        price = (tokens.prompt - tokens.cached) * self.input + tokens.cached * cached + tokens.completion * self.output
        return price / _MILLION * (yen_per_usd if self.currency == "USD" else 1)


class Server(_Sheet):
    """Yen but for `years`, `kilowatts` (average, at the plug), and `maintenance` (share of the purchase a year)."""

    name: str
    purchase: Figure
    years: Figure
    maintenance: Figure
    kilowatts: Figure
    yen_per_kwh: Figure
    pue: Figure
    hosting_a_month: Figure
    people_a_year: Figure

    def parts(self) -> dict[str, float]:
        """Yen a month, by what it is spent on."""
        power = self.kilowatts.value * _HOURS * self.yen_per_kwh.value * self.pue.value
        return {
            "purchase": self.purchase.value / max(self.years.value, 0.1) / 12,
            "maintenance": self.purchase.value * self.maintenance.value / 12,
            "power": power / 12,
            "hosting": self.hosting_a_month.value,
            "people": self.people_a_year.value / 12,
        }


class Prices(_Sheet):
    date: date
    yen_per_usd: Figure
    apis: list[Api] = Field(min_length=1)
    servers: list[Server] = Field(min_length=1)


class Tokens(BaseModel):
    """Of some traffic; `cached` is part of `prompt`."""

    prompt: int
    cached: int
    completion: int

    @property
    def total(self) -> int:
        return self.prompt + self.completion


# What a mix of three to one is taken as where there was no traffic to take it from.
EXAMPLE = Tokens(prompt=750_000, cached=0, completion=250_000)


def load(file: Path) -> Prices:
    """Raises SumikaError `bad_config`."""
    return yamlfile.load(Prices, file)


def break_even(api: Api, monthly: float, mix: Tokens, yen_per_usd: float) -> float | None:
    """Tokens a month, mixed as `mix`, from which the API costs more than `monthly` yen; None where it is free."""
    each = api.yen(mix, yen_per_usd) / mix.total
    return monthly / each if each else None
