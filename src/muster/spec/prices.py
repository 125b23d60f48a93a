"""The built-in, dated prices (`prices.toml`) to hold a forecast against. Knows nothing of what a pool earns."""

from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

from pydantic import Field

from muster.spec.written import Table, parse

_Dollars = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class TokenPrice(Table):
    """What a million generated tokens sold for."""

    name: str
    per_million: _Dollars
    as_of: str
    source: str


class FleetPrice(Table):
    """What a whole fleet of one kind of device cost in an hour, or earned otherwise."""

    name: str
    basis: Literal["mining", "rental"]
    device: str
    """A name of the table of hardware facts."""
    devices: Annotated[int, Field(gt=0)]
    per_hour: _Dollars
    as_of: str
    source: str


class _File(Table):
    tokens: tuple[TokenPrice, ...]
    fleet: tuple[FleetPrice, ...]


def token_prices() -> tuple[TokenPrice, ...]:
    return _read().tokens


def fleet_prices() -> tuple[FleetPrice, ...]:
    return _read().fleet


@cache
def _read() -> _File:
    return parse(files("muster.spec").joinpath("prices.toml").read_text("utf-8"), _File, "The table of prices")
