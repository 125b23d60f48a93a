"""How a running worker or head tells what happens. Knows nothing of who listens."""

from typing import Any, Protocol

from muster.spec.pool import Device


class Announce(Protocol):
    """Told what happens: a name for programs, a sentence for people, facts for both."""

    def __call__(self, event: str, sentence: str, **facts: Any) -> None: ...


def describe(device: Device) -> str:
    """The measurement in one sentence."""
    flops = ", ".join(f"{speed / 1e9:.0f} GFLOP/s in {dtype}" for dtype, speed in device.flops_per_s.items())
    size, unit = (device.memory_bytes / 1e9, "GB") if device.memory_bytes >= 1e9 else (device.memory_bytes / 1e6, "MB")
    memory = f"{size:.3g} {unit} to lend at {device.memory_bandwidth_bytes_per_s / 1e9:.0f} GB/s"
    return f"{device.name}: {flops}, {memory}, disk {device.disk_bandwidth_bytes_per_s / 1e6:.0f} MB/s."
