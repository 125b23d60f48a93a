"""Seconds for a piece of work on a device, by a roofline with fitted constants. Knows nothing of how they were fitted.

    seconds   = steps x (step_s + cold_s x (1 - warmth)) + layers x layer_s + rows x row_s
                + max(computing, moving) + (1 - overlap) x min(…)
    computing = matmul x A / F + attention x B / F          moving = memory x M / W

with A and B operations of the two kinds, F the device's peak in the model's dtype, M bytes and W its memory bandwidth.
Williams, Waterman and Patterson, "Roofline" (2009), with start-up times for what the roofline leaves out, and with a
processor in mind that does not load while it multiplies, and that has forgotten after a pause what it did before it.

Every forecast of computing in Muster is this formula: one piece of work at a time, or all layer ranges at once.
"""

from dataclasses import dataclass
from math import exp, inf
from typing import overload

import numpy as np

from muster.cost.layer_ranges import Floats, WorkTable
from muster.cost.work import Work
from muster.spec.pool import Device

UNMEASURED_FLOPS_PER_S = 2e10
UNMEASURED_BANDWIDTH_BYTES_PER_S = 5e9
"""A machine that has not said how fast it is counts as a slow laptop, so that nobody gains by silence."""

_STAND_INS = {
    "float8_e4m3fn": ("bfloat16", "float16"),
    "bfloat16": ("float32",),
    "float16": ("float32",),
}
"""A device without the dtype computes in one of these; bfloat16 on an old card costs what float32 does."""


@dataclass(frozen=True, slots=True)
class Constants:
    """How much longer than the peak figures say. 1 is the peak; 0 for the overheads."""

    step_s: float = 0.0
    """Per step: scheduling, waking up."""
    cold_s: float = 0.0
    """Per step after a long pause, beyond `step_s`: what others did meanwhile is in the caches."""
    cools_s: float = 0.0
    """After a pause of this length, 63 % of `cold_s` (1 - 1/e) is due."""
    layer_s: float = 0.0
    """Per layer: starting its kernels."""
    row_s: float = 0.0
    """Per sequence in a step: its place in the batch, its pages, its sampled token."""
    matmul: float = 1.0
    attention: float = 1.0
    memory: float = 1.0
    overlap: float = 1.0
    """Share of the lesser of computing and moving that hides behind the greater: 1 is the roofline, 0 a plain sum."""
    message_s: float = 0.0
    """Per message from stage to stage, beside latency and bandwidth: framing, copying, waking up at both ends."""
    reduce_s: float = 0.0
    """Per all-reduce among devices of one machine, however small: starting it, and waiting for the last."""
    reduce_bytes_per_s: float = inf
    """The most that passes from one device to the next in an all-reduce, whatever the link between them could carry."""
    host_flops_per_s: float = 0.0
    """Peak in float32 of the processor whose overheads these are. One that computes slower also starts a step, a layer
    or a row slower, in proportion: it lends a share of such a processor's time, and pauses for the rest of every step.
    0 is a host apart from the device, with the same overheads everywhere."""

    def of(self, device: Device) -> "Constants":
        """Those of one device of a pool; here all are alike."""
        return self


IDEAL = Constants()

TYPICAL = Constants(step_s=2e-3, layer_s=3e-5, matmul=2.0, attention=4.0, memory=1.4)
"""For a forecast on machines that nobody has measured: half of the peak in multiplications (training at 36 to 41 % on
H100 is what INTELLECT-1 reports, arXiv 2412.01152; large multiplications alone reach more), 70 % of the bandwidth."""


def peak_flops_per_s(device: Device, dtype: str) -> float:
    """Of `dtype`, or of what stands in for it; of any that is known before none."""
    for name in (dtype, *_STAND_INS.get(dtype, ())):
        if device.flops_per_s.get(name):
            return device.flops_per_s[name]
    return next((rate for rate in device.flops_per_s.values() if rate), UNMEASURED_FLOPS_PER_S)


def memory_bandwidth(device: Device) -> float:
    """Bytes per second."""
    return device.memory_bandwidth_bytes_per_s or UNMEASURED_BANDWIDTH_BYTES_PER_S


@overload
def seconds(work: Work, device: Device, dtype: str, constants: Constants = IDEAL, pause_s: float = inf) -> float: ...


@overload
def seconds(
    work: WorkTable, device: Device, dtype: str, constants: Constants = IDEAL, pause_s: float = inf
) -> Floats: ...


def seconds(
    work: Work | WorkTable, device: Device, dtype: str, constants: Constants = IDEAL, pause_s: float = inf
) -> float | Floats:
    """`pause_s` since the device did work of the same kind; who does not know it expects a long one."""
    constants = constants.of(device)
    peak = peak_flops_per_s(device, dtype)
    computing = (constants.matmul * work.matmul_flops + constants.attention * work.attention_flops) / peak
    moving = constants.memory * work.memory_bytes / memory_bandwidth(device)
    cold_s = constants.cold_s * (1 - warmth(pause_s, constants.cools_s))
    starting = work.steps * (constants.step_s + cold_s) + work.layers * constants.layer_s + work.rows * constants.row_s
    return starting * host_slowness(device, constants.host_flops_per_s) + overlapped(
        computing, moving, constants.overlap
    )


@overload
def overlapped(computing: float, moving: float, overlap: float) -> float: ...


@overload
def overlapped(computing: float | Floats, moving: float | Floats, overlap: float) -> float | Floats: ...


def overlapped(computing: float | Floats, moving: float | Floats, overlap: float) -> float | Floats:
    """Seconds of both, where the share `overlap` of the lesser hides behind the greater."""
    if isinstance(computing, np.ndarray) or isinstance(moving, np.ndarray):
        return computing + moving - overlap * np.minimum(computing, moving)
    return computing + moving - overlap * min(computing, moving)


def host_slowness(device: Device, host_flops_per_s: float) -> float:
    """How many times as long as on the processor of `host_flops_per_s` overheads take; 1 where that is 0."""
    return host_flops_per_s / peak_flops_per_s(device, "float32") if host_flops_per_s else 1.0


def warmth(pause_s: float, cools_s: float) -> float:
    """Share of `cold_s` that a step is spared which begins `pause_s` after the device did work of the same kind."""
    return exp(-pause_s / cools_s) if cools_s > 0 else 0.0
