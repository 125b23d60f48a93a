"""What a machine can have at most, by the table of hardware facts: what is claimed beyond is clipped, and said. Pure.

A named device has what its row says, whatever else most of what any row says. That is a bound for liars and broken
measurements, not a judgement of honest ones: those stay a little below what vendors print.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from muster.spec.devices import DeviceFacts, all_devices, find_device
from muster.spec.pool import Device

TOLERANCE = 1.25
"""Boosted clocks, rounded figures and caches, on top of what a vendor prints."""
_RATES = ("memory_bandwidth_bytes_per_s", "host_bandwidth_bytes_per_s", "disk_bandwidth_bytes_per_s")


def clipped(device: Device) -> tuple[Device, str]:
    """The device as far as it is plausible, and in one sentence what is not; empty where all of it is."""
    facts = find_device(device.name) if device.kind != "cpu" else None
    rows = (facts,) if facts is not None else all_devices()
    # Nothing is copied faster than the memory that it comes from or goes to.
    fastest = _most(rows, lambda row: max(row.memory_bandwidth_bytes_per_s, row.host_bandwidth_bytes_per_s))
    found = replace(
        device,
        memory_bytes=min(device.memory_bytes, int(_most(rows, lambda row: row.memory_bytes))),
        flops_per_s={dtype: min(rate, _speed(rows, dtype)) for dtype, rate in device.flops_per_s.items()},
        **{name: min(getattr(device, name), fastest) for name in _RATES},
    )
    return found, _sentence(device, found, facts)


def _speed(rows: Sequence[DeviceFacts], dtype: str) -> float:
    """A dtype that a row leaves out is computed there like float32."""
    return _most(rows, lambda row: row.flops_per_s.get(dtype, row.flops_per_s["float32"]))


def _most(rows: Sequence[DeviceFacts], figure: Callable[[DeviceFacts], float]) -> float:
    return TOLERANCE * max(figure(row) for row in rows)


def _sentence(claimed: Device, found: Device, facts: DeviceFacts | None) -> str:
    beyond = []
    if found.memory_bytes < claimed.memory_bytes:
        beyond.append(f"{claimed.memory_bytes / 2**30:,.0f} GiB of memory (counted: {found.memory_bytes / 2**30:,.0f})")
    for dtype, rate in claimed.flops_per_s.items():
        if found.flops_per_s[dtype] < rate:
            beyond.append(f"{rate:.2g} FLOP/s in {dtype[:16]} (counted: {found.flops_per_s[dtype]:.2g})")
    for name in _RATES:
        if getattr(found, name) < getattr(claimed, name):
            what = name.removesuffix("_bytes_per_s").replace("_", " ")
            beyond.append(f"{getattr(claimed, name):.2g} bytes/s of {what} (counted: {getattr(found, name):.2g})")
    known = f"one {facts.title} has" if facts is not None else "any known device has"
    return f"It claims more than {known}: {', '.join(beyond)}." if beyond else ""
