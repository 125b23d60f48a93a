"""A network as somebody describes it: regions, the links between them, and when a link is cut. Knows no sockets.

    name = "two-towns"
    description = "…"
    source = "where the figures come from"
    regions = ["north", "south"]

    [inside]                       # two machines of one region
    latency_s = 0.0005
    bandwidth_bytes_per_s = 125e6

    [[link]]
    between = ["north", "south"]
    latency_s = 0.040              # one way
    jitter_s = 0.002               # up to this much more, drawn for each frame
    loss = 0.001                   # share of packets that must be sent again
    bandwidth_bytes_per_s = 12.5e6
    back_bandwidth_bytes_per_s = 2.5e6     # from south to north, where it differs

    [[cut]]
    between = ["north", "south"]
    start_s = 10.0
    end_s = 15.0

`[elsewhere]` describes pairs that no `[[link]]` names, and machines of no known region.
"""

from importlib.resources import files
from typing import Annotated

from pydantic import Field, model_validator

from muster.errors import InvalidRequest
from muster.spec.written import Table, parse

_Seconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
_Bandwidth = Annotated[float, Field(gt=0, le=1e13, allow_inf_nan=False)]
_Pair = tuple[str, str]


class Link(Table):
    """One direction between two machines. Bandwidth is per pair of machines, as in DT-FM's model."""

    latency_s: _Seconds
    """One way."""
    bandwidth_bytes_per_s: _Bandwidth
    jitter_s: _Seconds = 0.0
    loss: Annotated[float, Field(ge=0, le=0.5)] = 0.0


class BothWays(Link):
    """A `[[link]]` table."""

    between: _Pair
    back_bandwidth_bytes_per_s: _Bandwidth | None = None


class Cut(Table):
    """Nothing passes between two regions from `start_s` to `end_s`, counted from the start of the scenario."""

    between: _Pair
    start_s: _Seconds
    end_s: _Seconds


class Scenario(Table):
    """A whole TOML file."""

    name: str
    description: str = ""
    source: str = ""
    regions: tuple[str, ...] = Field(min_length=1)
    inside: Link = Link(latency_s=0.0005, bandwidth_bytes_per_s=125e6)
    elsewhere: Link = Link(latency_s=0.05, bandwidth_bytes_per_s=12.5e6)
    link: tuple[BothWays, ...] = ()
    cut: tuple[Cut, ...] = ()

    @model_validator(mode="after")
    def _check_regions(self) -> "Scenario":
        if len(set(self.regions)) < len(self.regions):
            raise ValueError("a region is listed twice")
        for region in (name for pair in self._pairs() for name in pair):
            if region not in self.regions:
                raise ValueError(f"{region!r} is not among the regions")
        pairs = [frozenset(link.between) for link in self.link]
        if len(set(pairs)) < len(pairs):
            raise ValueError("two links join the same regions")
        if any(cut.end_s <= cut.start_s for cut in self.cut):
            raise ValueError("a cut ends before it starts")
        return self

    def _pairs(self) -> list[_Pair]:
        return [link.between for link in self.link] + [cut.between for cut in self.cut]

    def between(self, source: str | None, target: str | None) -> Link:
        """The direction from a machine in `source` to one in `target`; None is a machine of no known region."""
        for link in self.link:
            if link.between == (source, target):
                return link
            if link.between == (target, source):
                back = link.back_bandwidth_bytes_per_s or link.bandwidth_bytes_per_s
                return link.model_copy(update={"bandwidth_bytes_per_s": back})
        return self.inside if source == target and source is not None else self.elsewhere

    def is_cut(self, source: str | None, target: str | None, at_s: float) -> bool:
        pair = {source, target}
        return any(set(cut.between) == pair and cut.start_s <= at_s < cut.end_s for cut in self.cut)


def parse_scenario(text: str) -> Scenario:
    """Raises `InvalidRequest` that names the line or the key."""
    return parse(text, Scenario, "The scenario")


def scenario_names() -> list[str]:
    """Of the scenarios that come with Muster."""
    return sorted(file.name.removesuffix(".toml") for file in _shipped().iterdir() if file.name.endswith(".toml"))


def shipped_scenario(name: str) -> Scenario:
    """One of `scenario_names()`; its text is part of the program."""
    if name not in scenario_names():
        raise InvalidRequest(f"There is no scenario {name!r}; choose one of {', '.join(scenario_names())}.", "scenario")
    return parse_scenario(_shipped().joinpath(f"{name}.toml").read_text("utf-8"))


_shipped = files("muster.spec").joinpath("scenarios").joinpath
