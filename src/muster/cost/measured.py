"""Constants that were fitted to measurements and come with Muster, by kind of device (`spec/constants.toml`).

A forecast of a pool takes those of its devices' kind where there are any, else the typical ones. Fits nothing itself.
"""

from functools import cache
from importlib.resources import files
from typing import Annotated

from pydantic import Field

from muster.cost.pace import TYPICAL, Constants
from muster.spec.pool import Pool
from muster.spec.written import Table, parse

_Seconds = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Factor = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1)]


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


def constants_of(pool: Pool) -> Constants:
    """Of the kind that all devices of the pool share; `TYPICAL` where they differ or nobody is there."""
    kinds = {node.device.kind for node in pool.nodes}
    return constants_for(kinds.pop()) if len(kinds) == 1 else TYPICAL


class _File(Table):
    kinds: dict[str, FittedConstants]


@cache
def _read() -> _File:
    return parse(files("muster.spec").joinpath("constants.toml").read_text("utf-8"), _File, "The table of constants")
