"""`[machine.tiers]` of a pool file: rates of a machine's tiers as a person writes them. Knows no machine.

    [[machine]]
    device = "t4"
    host_memory = "200GB"
    disk = "1.5TB"
    tiers = { disk_read_bytes_per_s = 2e9, host_attention_bytes_per_s = 1.2e10 }

What is not said is derived from the device (`cost/offload/rates`).
"""

import json
from dataclasses import fields
from typing import Annotated, Any

from pydantic import Field, field_validator

from muster.spec.ranges import Rate
from muster.spec.tiers import TierRates
from muster.spec.written import Table

_Second = Annotated[float, Field(ge=0, le=1)]
_Share = Annotated[float, Field(ge=0, le=1)]


class WrittenTiers(Table):
    """Each key is a field of `TierRates`."""

    device_bytes_per_s: Rate | None = None
    """At which operators read weights and cache on the device."""
    to_device_bytes_per_s: Rate | None = None
    """Copies from host memory to the device."""
    from_device_bytes_per_s: Rate | None = None
    """Copies from the device to host memory."""
    disk_read_bytes_per_s: Rate | None = None
    """Past the page cache, several requests in flight."""
    disk_write_bytes_per_s: Rate | None = None
    """Likewise."""
    host_attention_bytes_per_s: Rate | None = None
    """Keys and values that attention on the host works through."""
    device_attention_bytes_per_s: Rate | None = None
    """Likewise on the device."""
    matmul_flops_per_s: tuple[tuple[Annotated[int, Field(ge=1, le=10**9)], Rate], ...] | None = None
    """Pairs of rows and FLOP/s, ascending: multiplications by weights on the device."""
    attention_flops_per_s: Rate | None = None
    """On the device, over prompts."""
    dtype: str | None = None
    """In which that was measured; else in the model's."""
    layer_s: _Second | None = None
    """To start one layer for one microbatch."""
    copy_s: _Second | None = None
    """To start one copy, or one request to the disk."""
    host_attention_s: _Second | None = None
    """To hand one microbatch of one layer to the host and back."""
    step_s: _Second | None = None
    """Once per step of a block."""
    copies_overlap: _Share | None = None
    """Share of copies that hides behind computing, or computing behind copies."""
    disk_overlap: _Share | None = None
    """Likewise of the disk and everything else."""
    attention_overlap: _Share | None = None
    """Likewise of attention on the host and computing on the device."""
    measured_on: str | None = None
    """For people."""

    @field_validator("matmul_flops_per_s")
    @classmethod
    def _ascending(cls, pairs: tuple[tuple[int, float], ...] | None) -> tuple[tuple[int, float], ...] | None:
        if pairs is not None and (not pairs or [rows for rows, _ in pairs] != sorted({rows for rows, _ in pairs})):
            raise ValueError("write pairs [rows, FLOP/s] with more rows in each than in the one before")
        return pairs

    def rates(self) -> dict[str, Any]:
        """What is said."""
        return {key: value for key, value in self.model_dump().items() if value is not None}


def tiers_text(tiers: TierRates) -> str:
    """What is known, as an inline table of TOML."""
    known = [(one.name, getattr(tiers, one.name)) for one in fields(tiers)]
    return "{ " + ", ".join(f"{name} = {_value(value)}" for name, value in known if value != _UNSAID[name]) + " }"


_UNSAID = {one.name: one.default for one in fields(TierRates)}


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(f"[{rows}, {float(rate)!r}]" for rows, rate in value) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
