"""What one machine does with weights and cache that its device does not hold: measured rates of each tier. No planner.

disk  ──read──▶  host memory  ──to device──▶  device
      ◀─write──   (attention)  ◀─from device──
"""

from dataclasses import dataclass
from typing import Literal, get_args

Tier = Literal["device", "host", "disk"]
TIERS: tuple[Tier, ...] = get_args(Tier)


@dataclass(frozen=True, slots=True)
class TierRates:
    """Bytes, FLOPs and seconds of one machine, measured while nothing else ran, but for the three shares at the end.

    A rate of 0, and no multiplications, mean that nobody measured it; `cost/offload/rates` then derives it from what
    the device's vendor prints.

    On a machine without a graphics card the device is the memory under `--memory`, host memory that under
    `--host-memory`, and a copy between the two is one within memory.
    """

    device_bytes_per_s: float = 0.0
    """At which operators read weights and cache that lie on the device: the memory's bandwidth, as reached."""
    to_device_bytes_per_s: float = 0.0
    """Host memory to device, copies as large as a weight."""
    from_device_bytes_per_s: float = 0.0
    """Back, copies as large as a microbatch's hidden state."""
    disk_read_bytes_per_s: float = 0.0
    """Past the page cache, with several requests in flight."""
    disk_write_bytes_per_s: float = 0.0
    host_attention_bytes_per_s: float = 0.0
    """Of keys and values that attention on the host works through, for one token of each sequence."""
    device_attention_bytes_per_s: float = 0.0
    """Likewise on the device, over cache there; not measured, it is `device_bytes_per_s`."""
    matmul_flops_per_s: tuple[tuple[int, float], ...] = ()
    """(rows, FLOP/s) in `dtype`, ascending: multiplications by weights on the device with so many rows at once."""
    attention_flops_per_s: float = 0.0
    """On the device, over prompts."""
    dtype: str = ""
    """In which that was measured; empty is the model's own."""
    layer_s: float = 0.0
    """To start one layer for one microbatch, whatever it computes: all of its operators."""
    copy_s: float = 0.0
    """To start one copy between host and device, or one request to the disk."""
    host_attention_s: float = 0.0
    """To hand one microbatch of one layer to the host and to take it back, beside the bytes."""
    step_s: float = 0.0
    """Once per step of a block: batching, sampling."""
    copies_overlap: float = 1.0
    """Of copies between host and device and computing at the same time, how much of the lesser hides behind the
    greater: 1 is all of it, 0 makes one wait for the other."""
    disk_overlap: float = 1.0
    """Likewise of the disk and everything else."""
    attention_overlap: float = 1.0
    """Likewise of attention on the host and computing on the device, of two different microbatches."""
    measured_on: str = ""
    """For people."""
