"""Rent or own: what tokens cost at API prices, beside what a server costs. Every number comes from a dated sheet that people edit:
the one in the home where an administrator kept one, else the one in `configs/`."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator

from sumika.models import yamlfile
from sumika.models.home import Home, write_atomically
from sumika.models.settings import PRICES_FILE
from sumika.models.tree import shipped

_HOURS = 8_760
_MILLION = 1_000_000
_HEADER = "# Kept by the console's page 費用 (/console/costs/prices). Taking this file away brings the sheet in configs/ back.\n"
_Name = Annotated[str, Field(min_length=1, max_length=100)]
_Source = Annotated[str, Field(min_length=1, max_length=500)]
_Number = Annotated[float, Field(ge=0, le=1e15, strict=True)]


class _Sheet(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Figure(_Sheet):
    """One number, and where it comes from."""

    value: _Number
    source: _Source


class Api(_Sheet):
    """List prices for a million tokens. `cached`: of the prompt's tokens that were read from a cache; `input` where not given."""

    name: _Name
    vendor: Annotated[str, Field(max_length=100)]
    currency: Literal["USD", "JPY"]
    input: _Number
    output: _Number
    cached: _Number | None = None
    source: _Source

    def yen(self, tokens: Tokens, yen_per_usd: float) -> float:
        """What `tokens` cost."""
        cached = self.input if self.cached is None else self.cached
        price = (tokens.prompt - tokens.cached) * self.input + tokens.cached * cached + tokens.completion * self.output
        return price / _MILLION * (yen_per_usd if self.currency == "USD" else 1)


class Server(_Sheet):
    """Yen but for `years`, `kilowatts` (average, at the plug), and `maintenance` (share of the purchase a year)."""

    name: _Name
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


# What a server's cost is made of.
FIGURES = tuple(name for name in Server.model_fields if name != "name")


class Prices(_Sheet):
    date: date
    yen_per_usd: Figure
    apis: list[Api] = Field(min_length=1, max_length=50)
    servers: list[Server] = Field(min_length=1, max_length=20)

    @field_validator("apis", "servers")
    @classmethod
    def _each_once(cls, rows: list[Api] | list[Server]) -> list[Api] | list[Server]:
        names = [row.name for row in rows]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"'{twice}' is there twice; give each its own name")
        return rows


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


def current(home: Home) -> Prices:
    """Raises SumikaError `bad_config`."""
    return load(home.prices if is_own(home) else shipped(PRICES_FILE))


def is_own(home: Home) -> bool:
    """Whether an administrator keeps a sheet in the home."""
    return home.prices.is_file()


def keep(home: Home, sheet: Prices) -> None:
    """In the home, whole or not at all."""
    text = yaml.safe_dump(sheet.model_dump(), allow_unicode=True, sort_keys=False, width=200)
    write_atomically(home.prices, (_HEADER + text).encode(), mode=0o600)


def forget(home: Home) -> None:
    """The sheet in `configs/` counts again."""
    home.prices.unlink(missing_ok=True)


def break_even(api: Api, monthly: float, mix: Tokens, yen_per_usd: float) -> float | None:
    """Tokens a month, mixed as `mix`, from which the API costs more than `monthly` yen; None where it is free."""
    each = api.yen(mix, yen_per_usd) / mix.total
    return monthly / each if each else None
