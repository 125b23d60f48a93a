"""The table of hardware facts (`devices.toml`) as frozen records. Knows what vendors print, not what was measured."""

import re
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

from pydantic import Field

from muster.errors import InvalidRequest
from muster.spec.pool import Device
from muster.spec.written import Table, parse, suggest

MARKETS = ("on_demand", "spot", "community", "mining")
_LANE_BYTES_PER_S = {3: 8e9 * 128 / 130 / 8, 4: 16e9 * 128 / 130 / 8, 5: 32e9 * 128 / 130 / 8}
"""PCIe by generation: transfers per second and lane, less the line code, one direction."""
_VENDOR_WORDS = re.compile(r"\b(nvidia|geforce|tesla|amd|instinct|radeon|apple|graphics|gpu|rtx(?= ?-?a\d))\b")

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What is printed about one kind of device. Rates are peaks: no program reaches them."""

    name: str
    title: str
    kind: str
    memory_bytes: int
    memory_bandwidth_bytes_per_s: float
    flops_per_s: dict[str, float]
    """Dense, by dtype."""
    host_bandwidth_bytes_per_s: float
    disk_bandwidth_bytes_per_s: float
    peer_bandwidth_bytes_per_s: float
    """To another such device in the same machine, one direction."""
    watts: float
    source: str
    family: str = ""
    """Devices of one make, by which constants of the cost model are kept."""
    joined: str = ""
    """How those of one machine reach each other: `nvlink`, `pcie`, or through the host's memory (`host`)."""
    reaches: dict[str, float] = field(default_factory=dict)
    """Shares of the peaks that published measurements of this device say: `matmul`, `memory`."""
    price_per_hour: dict[str, float] = field(default_factory=dict)
    """US dollars by market (`MARKETS`), approximate, as of `prices_as_of()`."""

    def device(self) -> Device:
        """The record that planners work with; all of the memory is lent."""
        return Device(
            kind=self.kind,
            name=self.title,
            memory_bytes=self.memory_bytes,
            flops_per_s=dict(self.flops_per_s),
            memory_bandwidth_bytes_per_s=self.memory_bandwidth_bytes_per_s,
            host_bandwidth_bytes_per_s=self.host_bandwidth_bytes_per_s,
            disk_bandwidth_bytes_per_s=self.disk_bandwidth_bytes_per_s,
        )

    def price(self, market: str) -> float:
        """US dollars per hour. Raises `InvalidRequest` naming the markets that are known."""
        if market not in self.price_per_hour:
            known = ", ".join(self.price_per_hour) or "none"
            raise InvalidRequest(
                f"No {market} price of {self.name} is known (known: {known}); write price_per_hour instead.", "market"
            )
        return self.price_per_hour[market]


def find_device(name: str) -> DeviceFacts | None:
    """By name, alias or the title that a driver reports; spaces, case and the vendor's name do not matter."""
    return _by_spelling().get(_spelling(name))


def device_facts(name: str) -> DeviceFacts:
    """As `find_device`, but raises `InvalidRequest` with the closest names."""
    found = find_device(name)
    if found is None:
        reason = f"Device {name!r} is not in the table of hardware facts; {suggest(_spelling(name), device_names())}"
        raise InvalidRequest(reason, "device")
    return found


def device_names() -> list[str]:
    return [facts.name for facts in all_devices()]


def prices_as_of() -> str:
    """The date of the built-in prices."""
    return _table().prices.as_of


def prices_source() -> str:
    return " ".join(_table().prices.source.split())


class _Written(Table):
    name: str
    title: str
    aliases: tuple[str, ...] = ()
    kind: Annotated[str, Field(pattern="^(cpu|cuda|mps)$")]
    family: Annotated[str, Field(pattern="^(cpu|apple|geforce|low-power|workstation|hbm|hbm-pcie)$")]
    memory_mib: Annotated[int, Field(gt=0)]
    memory_bandwidth_gb_s: _Positive
    tflops: dict[str, _Positive]
    pcie: tuple[int, int] | None = None
    peer_gb_s: _Positive | None = None
    disk_bandwidth_gb_s: _Positive | None = None
    watts: _Positive
    reaches: dict[Literal["matmul", "memory"], _Share] = Field(default_factory=dict)
    price_per_hour: dict[str, _Positive] = Field(default_factory=dict)
    source: str

    def facts(self, disk_gb_s: float) -> DeviceFacts:
        memory = self.memory_bandwidth_gb_s * 1e9
        # Without PCIe the processor itself owns the memory (CPU, Apple): nothing has to cross a bus.
        host = self.pcie[1] * _LANE_BYTES_PER_S[self.pcie[0]] if self.pcie else memory
        return DeviceFacts(
            name=self.name,
            title=self.title,
            kind=self.kind,
            memory_bytes=self.memory_mib * 2**20,
            memory_bandwidth_bytes_per_s=memory,
            flops_per_s={dtype: rate * 1e12 for dtype, rate in self.tflops.items()},
            host_bandwidth_bytes_per_s=host,
            disk_bandwidth_bytes_per_s=(self.disk_bandwidth_gb_s or disk_gb_s) * 1e9,
            peer_bandwidth_bytes_per_s=self.peer_gb_s * 1e9 if self.peer_gb_s else host,
            watts=self.watts,
            source=self.source,
            family=self.family,
            joined="nvlink" if self.peer_gb_s else "host" if self.family == "geforce" else "pcie",
            reaches={str(what): share for what, share in self.reaches.items()},
            price_per_hour=dict(self.price_per_hour),
        )


class _Defaults(Table):
    disk_bandwidth_gb_s: _Positive
    disk_source: str


class _Prices(Table):
    as_of: str
    source: str


class _File(Table):
    defaults: _Defaults
    prices: _Prices
    device: tuple[_Written, ...]


@cache
def _table() -> _File:
    text = files("muster.spec").joinpath("devices.toml").read_text("utf-8")
    return parse(text, _File, "The table of hardware facts")


@cache
def all_devices() -> tuple[DeviceFacts, ...]:
    """Every row of the table."""
    disk = _table().defaults.disk_bandwidth_gb_s
    return tuple(written.facts(disk) for written in _table().device)


@cache
def _by_spelling() -> dict[str, DeviceFacts]:
    return {
        _spelling(name): facts
        for written, facts in zip(_table().device, all_devices(), strict=True)
        for name in (written.name, written.title, *written.aliases)
    }


def _spelling(name: str) -> str:
    """`NVIDIA GeForce RTX 4090`, `rtx_4090` and `RTX-4090` are one device, and so are `RTX A6000` and `a6000`."""
    bare = _VENDOR_WORDS.sub(" ", name.lower())
    return "-".join(re.findall(r"[a-z0-9]+", bare))
