"""Rates of a machine's tiers: as measured, and where nobody measured, derived from what its vendor prints. Pure.

What is derived, and from what:

    device          memory bandwidth and FLOP/s with the constants of `cost/pace`
    to, from device a bus carries 85 % of what it says (FlexGen's T4: 12.9 GiB/s of 14.7); on a machine whose device is
                    its processor, what lies in host memory is used where it lies, which costs nothing
    disk            reads as the device's table says, and writes half as fast
    host attention  three quarters of a memory of two channels of DDR4-3200, since nobody says what the host's memory
                    is; on a processor, its own memory's rate
    overlaps        a bus and a disk hide behind a graphics card altogether; a processor hides the disk, but cannot do
                    attention on the host beside anything else
"""

from dataclasses import replace
from itertools import pairwise
from math import inf

from muster.cost.pace import TYPICAL, Constants, memory_bandwidth, peak_flops_per_s
from muster.spec.pool import Device
from muster.spec.tiers import TierRates

BUS_SHARE = 0.85
WRITE_SHARE = 0.5
HOST_ATTENTION_BYTES_PER_S = 0.75 * 51.2e9
UNMEASURED_DISK_BYTES_PER_S = 5e8
COPY_S = 2e-5


def uses_host_in_place(device: Device) -> bool:
    """Whether what lies in host memory is computed with where it lies, because the device is the host's processor."""
    return device.kind != "cuda"


def tier_rates(device: Device, dtype: str, constants: Constants = TYPICAL) -> TierRates:
    """Complete rates for computing in `dtype`."""
    derived = _derived(device, dtype, constants.of(device))
    said = device.tiers
    if said is None:
        return derived
    matmul, reads = said.matmul_flops_per_s, derived.device_bytes_per_s
    if said.dtype and said.dtype != dtype:
        ratio = peak_flops_per_s(device, dtype) / peak_flops_per_s(device, said.dtype)
        matmul = tuple((rows, ratio * rate) for rows, rate in matmul)
    return replace(
        said,
        dtype=dtype,
        matmul_flops_per_s=matmul or derived.matmul_flops_per_s,
        device_bytes_per_s=said.device_bytes_per_s or derived.device_bytes_per_s,
        to_device_bytes_per_s=said.to_device_bytes_per_s or derived.to_device_bytes_per_s,
        from_device_bytes_per_s=said.from_device_bytes_per_s or derived.from_device_bytes_per_s,
        disk_read_bytes_per_s=said.disk_read_bytes_per_s or derived.disk_read_bytes_per_s,
        disk_write_bytes_per_s=said.disk_write_bytes_per_s or derived.disk_write_bytes_per_s,
        host_attention_bytes_per_s=said.host_attention_bytes_per_s or derived.host_attention_bytes_per_s,
        device_attention_bytes_per_s=said.device_attention_bytes_per_s or said.device_bytes_per_s or reads,
        attention_flops_per_s=said.attention_flops_per_s or derived.attention_flops_per_s,
        layer_s=said.layer_s or derived.layer_s,
        step_s=said.step_s or derived.step_s,
    )


def _derived(device: Device, dtype: str, constants: Constants) -> TierRates:
    here = uses_host_in_place(device)
    reads = memory_bandwidth(device) / constants.memory
    peak = peak_flops_per_s(device, dtype)
    bus = inf if here else BUS_SHARE * (device.host_bandwidth_bytes_per_s or UNMEASURED_DISK_BYTES_PER_S)
    disk = device.disk_bandwidth_bytes_per_s or UNMEASURED_DISK_BYTES_PER_S
    return TierRates(
        device_bytes_per_s=reads,
        to_device_bytes_per_s=bus,
        from_device_bytes_per_s=bus,
        disk_read_bytes_per_s=disk,
        disk_write_bytes_per_s=WRITE_SHARE * disk,
        device_attention_bytes_per_s=reads,
        host_attention_bytes_per_s=reads if here else HOST_ATTENTION_BYTES_PER_S,
        matmul_flops_per_s=((1, peak / constants.matmul),),
        attention_flops_per_s=peak / constants.attention,
        dtype=dtype,
        layer_s=constants.layer_s,
        copy_s=0.0 if here else COPY_S,
        step_s=constants.step_s,
        attention_overlap=0.0 if here else 1.0,
    )


def matmul_flops_per_s(rates: TierRates, rows: float) -> float:
    """Between two measured counts on a straight line of FLOP/s over rows; beyond them as at the nearest."""
    pairs = rates.matmul_flops_per_s
    for (low, slow), (high, fast) in pairwise(pairs):
        if rows <= high:
            share = max(0.0, (rows - low) / (high - low))
            return slow + share * (fast - slow)
    return pairs[-1][1]
