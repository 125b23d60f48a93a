"""What this machine can do, measured in a second or two. Knows nothing of who asks.

Each figure is the best of a few short runs: other work on the machine can only make a run slower.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from torch import Tensor

from muster.errors import MachineTrouble
from muster.spec.pool import Device
from muster.spec.reserve import usable_bytes

_MATMUL_SIZE = 1024
_COPY_BYTES, _LEAST_COPY_BYTES = 48 * 2**20, 16 * 2**20
"""More than a processor's cache holds; where little is lent, there is no room for as much."""
_DISK_BYTES = 32 * 2**20
_RUNS = 10
_LONG_S = 0.5
"""Work that takes so long is done once: what makes a first run slower is nothing beside it."""


def free_memory_bytes(device: torch.device) -> int:
    """Memory that a new allocation on this device could get now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def measure_device(device: torch.device, disk: Path, speed: float = 1.0, room_bytes: int | None = None) -> Device:
    """Measure matmul FLOP/s by dtype, memory, host and disk bandwidth, in `room_bytes` of memory if that is said.

    Its memory is what is free, less a reserve. `speed` below 1 is for rehearsals: a machine that pretends to be slower
    (the worker then also waits accordingly).
    """
    total = None if device.type == "cuda" else int(psutil.virtual_memory().total)
    free = usable_bytes(device.type, free_memory_bytes(device), total)
    copied = _COPY_BYTES if room_bytes is None else max(_LEAST_COPY_BYTES, min(_COPY_BYTES, room_bytes // 2))
    memory_bandwidth = _copy_bytes_per_s(device, device, copied) * speed
    host_bandwidth = memory_bandwidth if device.type == "cpu" else _copy_bytes_per_s(torch.device("cpu"), device)
    return Device(
        kind=device.type,
        name=torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()}-core {device.type}",
        memory_bytes=free,
        flops_per_s={dtype: rate * speed for dtype, rate in matmul_speeds(device).items()},
        memory_bandwidth_bytes_per_s=memory_bandwidth,
        host_bandwidth_bytes_per_s=host_bandwidth,
        disk_bandwidth_bytes_per_s=_disk_bytes_per_s(disk),
    )


def matmul_speeds(device: torch.device) -> dict[str, float]:
    """FLOP/s by dtype. Some CPUs multiply bfloat16 faster than float32, others a hundred times slower; none float16."""
    dtypes = (torch.float32, torch.bfloat16, *(() if device.type == "cpu" else (torch.float16,)))
    return {str(dtype).removeprefix("torch."): _matmul_flops_per_s(device, dtype) for dtype in dtypes}


def own_clock() -> Callable[[], float]:
    """What this machine itself needs; where one thread computes, without what others take of the processor."""
    return time.thread_time if torch.get_num_threads() == 1 else time.perf_counter


def _best_seconds(work: Callable[[], object], device: torch.device) -> float:
    clock = own_clock() if device.type == "cpu" else time.perf_counter
    started = clock()
    work()
    best = clock() - started
    if best > _LONG_S:
        return best
    for _ in range(_RUNS):
        _wait_for(device)
        started = clock()
        work()
        _wait_for(device)
        best = min(best, clock() - started)
    return best


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _matmul_flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    size = _MATMUL_SIZE if device.type == "cpu" else 4 * _MATMUL_SIZE
    left, right = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    return 2 * size**3 / _best_seconds(lambda: left @ right, device)


def _copy_bytes_per_s(source: torch.device, target: torch.device, copied: int = _COPY_BYTES) -> float:
    """A copy reads and writes every byte, so within one memory it moves twice its size."""
    here: Tensor = torch.ones(copied // 4, device=source)
    there = torch.empty(copied // 4, device=target)
    moved = 4 * here.numel() * (2 if source == target else 1)
    return moved / _best_seconds(lambda: there.copy_(here), target)


def _disk_bytes_per_s(folder: Path) -> float:
    """Sequential write with fsync: the slower of the two directions, and the one that caches cannot flatter."""
    block = os.urandom(2**20)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            started = time.perf_counter()
            for _ in range(_DISK_BYTES // len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            return _DISK_BYTES / (time.perf_counter() - started)
    except OSError as error:
        reason = f"Cannot write to {folder} ({error.strerror}); free some space there or choose another --cache-dir."
        raise MachineTrouble(reason) from error
