"""Constants that were fitted to measurements and come with Muster (`spec/constants.toml`). Fits nothing itself.

Of a device in the table of hardware facts: shares of its peaks, its own where published measurements say them, else its
family's; overheads of the family; and what an all-reduce costs by the way its devices are joined. A device that has
measured itself does what it measured, and at most that share of its peak. Other devices take the constants of their
kind where there are any, else the typical ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from importlib.resources import files
from typing import Annotated

from pydantic import Field

from muster.cost.pace import TYPICAL, Constants
from muster.spec.devices import DeviceFacts, device_facts, find_device
from muster.spec.pool import Device, Pool
from muster.spec.written import Table, parse

_Seconds = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Factor = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Reached = Annotated[float, Field(gt=0, le=1)]


class FittedConstants(Table):
    """The fields of `Constants`, how well they fit, and to what."""

    step_s: _Seconds
    cold_s: _Seconds
    cools_s: _Seconds
    layer_s: _Seconds
    row_s: _Seconds
    matmul: _Factor
    attention: _Factor
    memory: _Factor
    overlap: _Share
    message_s: _Seconds
    median_error: _Share
    """Of the steps that they were fitted to."""
    worst_error: _Share
    measured_on: str
    as_of: str

    def constants(self) -> Constants:
        return Constants(
            step_s=self.step_s,
            cold_s=self.cold_s,
            cools_s=self.cools_s,
            layer_s=self.layer_s,
            row_s=self.row_s,
            matmul=self.matmul,
            attention=self.attention,
            memory=self.memory,
            overlap=self.overlap,
            message_s=self.message_s,
        )


def fitted() -> dict[str, FittedConstants]:
    """By kind of device, as in `Device.kind`."""
    return _read().kinds


def constants_for(kind: str) -> Constants:
    """Fitted to devices of this kind if any were measured, else `TYPICAL`."""
    found = fitted().get(kind)
    return TYPICAL if found is None else found.constants()


class FamilyConstants(Table):
    """Of devices of one make: overheads, and shares of their peaks."""

    step_s: _Seconds
    layer_s: _Seconds
    row_s: _Seconds
    matmul_share: _Reached
    attention_share: _Reached
    memory_share: _Reached
    overlap: _Share


class JoinConstants(Table):
    """Of devices of one machine that are joined in one way: what an all-reduce costs."""

    reduce_s: _Seconds
    share: _Reached
    """Of the bandwidth between two of them in one direction."""


class Published(Table):
    """What published measurements say, by family and by the way in which devices are joined."""

    families: dict[str, FamilyConstants]
    joins: dict[str, JoinConstants]

    def constants(self, facts: DeviceFacts, rates: Mapping[str, float], bandwidth: float) -> Constants:
        """Of such a device that says that it computes at these rates, and reads that many bytes a second."""
        family, join = self.families[facts.family], self.joins[facts.joined]
        computes = _of_peak(rates, facts.flops_per_s)
        reads = bandwidth / facts.memory_bandwidth_bytes_per_s or 1.0
        return Constants(
            step_s=family.step_s,
            layer_s=family.layer_s,
            row_s=family.row_s,
            matmul=max(1.0, computes / facts.reaches.get("matmul", family.matmul_share)),
            attention=max(1.0, computes / family.attention_share),
            memory=max(1.0, reads / facts.reaches.get("memory", family.memory_share)),
            overlap=family.overlap,
            reduce_s=join.reduce_s,
            reduce_bytes_per_s=join.share * facts.peer_bandwidth_bytes_per_s,
        )


def _of_peak(rates: Mapping[str, float], peaks: Mapping[str, float]) -> float:
    """What part of the peak a device says that it computes, in the first dtype that both know."""
    both = [dtype for dtype in ("bfloat16", "float16", "float32") if rates.get(dtype) and dtype in peaks]
    return rates[both[0]] / peaks[both[0]] if both else 1.0


class _File(Table):
    kinds: dict[str, FittedConstants]
    published: Published


@cache
def _read() -> _File:
    return parse(files("muster.spec").joinpath("constants.toml").read_text("utf-8"), _File, "The table of constants")


def published() -> Published:
    return _read().published


@dataclass(frozen=True, slots=True)
class DeviceConstants(Constants):
    """Of a pool with devices of the table. Its own fields are for whoever asks for no device."""

    def of(self, device: Device) -> Constants:
        facts = find_device(device.name)
        known = facts is not None and facts.family in published().families
        return _by_figures(device.name, _figures(device)) if known else constants_for(device.kind)


def _figures(device: Device) -> tuple[tuple[tuple[str, float], ...], float]:
    return tuple(sorted(device.flops_per_s.items())), device.memory_bandwidth_bytes_per_s


@lru_cache(maxsize=4096)
def _by_figures(name: str, figures: tuple[tuple[tuple[str, float], ...], float]) -> Constants:
    """Searches ask for the same few devices again and again."""
    rates, bandwidth = figures
    return published().constants(device_facts(name), dict(rates), bandwidth)


def constants_of(pool: Pool) -> Constants:
    """By device, where the table knows one of the pool; else of the kind that all share, or `TYPICAL`."""
    kinds = {node.device.kind for node in pool.nodes}
    base = constants_for(kinds.pop()) if len(kinds) == 1 else TYPICAL
    found = (find_device(node.device.name) for node in pool.nodes)
    if not any(facts is not None and facts.family in published().families for facts in found):
        return base
    return DeviceConstants(**{entry.name: getattr(base, entry.name) for entry in fields(base)})
