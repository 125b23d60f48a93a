"""What swapping cache with host memory costs: bytes that must be there, and how fast they move. Decides nothing."""

from muster.spec.model_shape import ModelShape
from muster.spec.plan import ServeSettings, WorkSettings
from muster.spec.pool import Device


def host_bytes(shape: ModelShape, first: int, last: int, settings: WorkSettings) -> int:
    """Host memory that a stage of such a pipeline takes for all pages of its layers [first, last)."""
    tokens = settings.host_tokens if isinstance(settings, ServeSettings) else 0
    return tokens * shape.cache_bytes_per_token(first, last)


def swap_bytes_per_s(device: Device) -> float:
    """At which pages come in while others go out; 0 where none can, or nobody knows.

    A copy within one memory reads and writes, which is how its bandwidth is counted. A bus carries both ways at once.
    """
    if device.host_memory_bytes <= 0 or device.kind not in ("cpu", "cuda"):
        return 0.0
    return device.host_bandwidth_bytes_per_s / (2 if device.kind == "cpu" else 1)
