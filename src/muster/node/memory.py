"""What this process takes of a machine's memory, and what a promise of all in all leaves for layers. Knows no model.

    --memory  =  what the program itself takes  +  GROWTH_BYTES  +  what is left for weights, cache and workspace

On a CPU the first is what the system says of this process and of those that it started, once everything is imported and
measured. On a graphics card it is the driver's context. Imports no torch.
"""

import contextlib
import ctypes
from pathlib import Path

import psutil

from muster.errors import InvalidRequest
from muster.spec.reserve import LEAST_BYTES

GROWTH_BYTES = 64 * 2**20
"""What the program grows by while it serves: the code of a model's family, messages, kernels made for a length."""
LEAST_LEFT_BYTES = 48 * 2**20
"""Less is of no use to any model."""
_ARENAS = 2
_M_ARENA_MAX = -8
"""Of glibc's `mallopt`."""


def program_bytes(kind: str) -> int:
    """What the program takes of the memory that is lent on a device of this kind, without any layers."""
    return resident_bytes() if kind == "cpu" else LEAST_BYTES


def resident_bytes() -> int:
    """Of this process and of all that it started. What a library's file and its memory share counts for each."""
    here = psutil.Process()
    total = int(here.memory_info().rss)
    for child in here.children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            total += int(child.memory_info().rss)
    return total


def check_promise(promised_bytes: int, kind: str) -> None:
    """Raises `InvalidRequest`, naming the least that works, when next to nothing would be left for layers."""
    taken = program_bytes(kind)
    least = -(-(taken + GROWTH_BYTES + LEAST_LEFT_BYTES) // 10**7) * 10**7
    if promised_bytes < least:
        raise InvalidRequest(
            f"--memory {promised_bytes / 1e6:.4g}MB is a promise for everything, and Muster itself takes "
            f"{taken / 1e6:.0f} MB here before it holds a layer; lend at least {least / 1e6:.0f}MB.",
            "memory",
        )


def check_host_memory(promised_bytes: int, memory_bytes: int | None, kind: str) -> None:
    """Raises `InvalidRequest` where that is not to be had beside `--memory`, or would be the same memory."""
    if promised_bytes and kind not in ("cpu", "cuda"):
        raise InvalidRequest(
            f"--host-memory lends what a device does not have, and on {kind} both have one memory; lend with --memory.",
            "host_memory",
        )
    beside = (memory_bytes or 0) if kind == "cpu" else 0
    free = max(0, int(psutil.virtual_memory().available) - beside)
    if promised_bytes > free:
        raise InvalidRequest(
            f"--host-memory {promised_bytes / 1e9:.3g}GB is more than the {free / 1e9:.3g} GB that are free here"
            f"{' beside --memory' if beside else ''}; lend less.",
            "host_memory",
        )


def check_disk(promised_bytes: int, folder: Path) -> None:
    """Raises `InvalidRequest` where the disk that has `folder`, or will have it, has no such room."""
    there = next((one for one in (folder, *folder.parents) if one.exists()), Path("/"))
    free = psutil.disk_usage(str(there)).free
    if promised_bytes > free:
        raise InvalidRequest(
            f"--disk {promised_bytes / 1e9:.3g}GB is more than the {free / 1e9:.3g} GB that are free at {there}; "
            "lend less, or name another disk with --disk-dir.",
            "disk",
        )


def left_for_layers(promised_bytes: int, kind: str) -> int:
    """By what the program takes now."""
    return max(0, promised_bytes - program_bytes(kind) - GROWTH_BYTES)


def less_than_promised(promised_bytes: int | None, free_bytes: int, kind: str) -> str:
    """A sentence for an owner who promised more than there is; empty for one who did not."""
    if promised_bytes is None or left_for_layers(promised_bytes, kind) <= free_bytes:
        return ""
    return (
        f" --memory {promised_bytes / 1e9:.3g}GB is more than is free here, so it lends {free_bytes / 1e9:.3g} GB "
        "beside what Muster itself takes."
    )


def spread_little() -> None:
    """Let threads share heaps: glibc gives each its own, and what is free in one is of no use to another."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)


def give_back() -> None:
    """What this process has freed goes back to the system, as far as its C library can."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
