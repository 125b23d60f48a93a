"""Tables of links as people write them: pairs, square matrices, and the city tables that come with Muster.

[[link]]
between = ["oregon", "tokyo"]          # names of regions or machines; a name twice: inside it
latency_s = 0.096                      # one way
bandwidth_bytes_per_s = 65.4e6
back_latency_s = 0.101                 # from the second to the first, where it differs
back_bandwidth_bytes_per_s = 12.5e6

[matrix]                               # row: from, column: to
of = ["oregon", "tokyo"]               # on the diagonal: between two machines of that region; 0 says nothing
latency_s = [[0.005, 0.096], [0.101, 0.005]]
bandwidth_bytes_per_s = [[250e6, 65.4e6], [12.5e6, 250e6]]
"""

from functools import cache
from importlib.resources import files
from typing import Annotated

from pydantic import Field, model_validator

from muster.errors import InvalidRequest
from muster.spec.pool import LinkSpeed
from muster.spec.ranges import LEAST_BANDWIDTH, MAX_BANDWIDTH, Bandwidth, Name, Seconds
from muster.spec.written import Table, parse, suggest, with_units

Speeds = dict[tuple[str, str], LinkSpeed]
_Row = tuple[float, ...]


_SHORT = {
    "latency": "latency_s",
    "bandwidth": "bandwidth_bytes_per_s",
    "back_latency": "back_latency_s",
    "back_bandwidth": "back_bandwidth_bytes_per_s",
}
"""Keys whose value brings its unit along."""


class WrittenSpeed(Table):
    """From one machine, or one device, to another."""

    latency_s: Seconds
    """One way. Or `latency = "20ms"`."""
    bandwidth_bytes_per_s: Bandwidth
    """In one direction. Or `bandwidth = "1Gbit/s"`."""

    @model_validator(mode="before")
    @classmethod
    def _long(cls, written: object) -> object:
        return with_units(written, _SHORT)

    def speed(self) -> LinkSpeed:
        return LinkSpeed(self.latency_s, self.bandwidth_bytes_per_s)


class WrittenLink(WrittenSpeed):
    """A `[[link]]` table."""

    between: tuple[Name, Name]
    """Two regions, machines, or names of tables with `count`; a name twice: between two machines of that name."""
    back_latency_s: Seconds | None = None
    """From the second to the first; as there."""
    back_bandwidth_bytes_per_s: Bandwidth | None = None
    """From the second to the first; as there."""

    def speeds(self) -> Speeds:
        latency_s = self.latency_s if self.back_latency_s is None else self.back_latency_s
        back = LinkSpeed(latency_s, self.back_bandwidth_bytes_per_s or self.bandwidth_bytes_per_s)
        here, there = self.between
        return {(there, here): back, (here, there): self.speed()}


class WrittenMatrix(Table):
    """A `[matrix]` table."""

    of: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Regions, or machines: names of rows (from) and of columns (to)."""
    latency_s: tuple[_Row, ...]
    """One way."""
    bandwidth_bytes_per_s: tuple[_Row, ...]
    """On the diagonal 0 says nothing."""

    @model_validator(mode="after")
    def _check(self) -> "WrittenMatrix":
        if len(set(self.of)) < len(self.of):
            raise ValueError("a name is listed twice")
        for key in ("latency_s", "bandwidth_bytes_per_s"):
            self._check_square(key, getattr(self, key))
        for i, source in enumerate(self.of):
            for j, target in enumerate(self.of):
                self._check_entry(source, target, self.latency_s[i][j], self.bandwidth_bytes_per_s[i][j])
        return self

    def _check_square(self, key: str, rows: tuple[_Row, ...]) -> None:
        size = len(self.of)
        if len(rows) != size:
            raise ValueError(f"{key} has {len(rows)} rows for {size} names: it is not square")
        for number, row in enumerate(rows, start=1):
            if len(row) != size:
                raise ValueError(f"row {number} of {key} has {len(row)} entries for {size} names: it is not square")

    def _check_entry(self, source: str, target: str, latency_s: float, bandwidth: float) -> None:
        if not 0 <= latency_s <= 3600:
            raise ValueError(f"the latency from {source} to {target} is {latency_s} s; it must lie between 0 and 3600")
        if not LEAST_BANDWIDTH <= bandwidth <= MAX_BANDWIDTH and not (source == target and bandwidth == 0):
            limits = f"between {LEAST_BANDWIDTH:g} and {MAX_BANDWIDTH:g} bytes a second"
            raise ValueError(f"the bandwidth from {source} to {target} is {bandwidth}; it must lie {limits}")

    def speeds(self) -> Speeds:
        return {
            (source, target): LinkSpeed(self.latency_s[i][j], self.bandwidth_bytes_per_s[i][j])
            for i, source in enumerate(self.of)
            for j, target in enumerate(self.of)
            if self.bandwidth_bytes_per_s[i][j] > 0
        }


class LinkTable(Table):
    """A whole file of links without machines."""

    name: str
    description: str = ""
    source: str
    matrix: WrittenMatrix

    @property
    def regions(self) -> tuple[str, ...]:
        return self.matrix.of


def link_table_names() -> list[str]:
    """Of the tables that come with Muster; a pool file names one with `links = "…"`."""
    return sorted(file.name.removesuffix(".toml") for file in files("muster.spec").joinpath("links").iterdir())


@cache
def link_table(name: str) -> LinkTable:
    if name not in link_table_names():
        reason = f"There is no table of links {name!r} with Muster; {suggest(name, link_table_names())}"
        raise InvalidRequest(reason, "links")
    text = files("muster.spec").joinpath("links").joinpath(f"{name}.toml").read_text("utf-8")
    return parse(text, LinkTable, f"The table of links {name}")
