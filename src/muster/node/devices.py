"""Which device of this machine computes, and in what. Asks torch only where there could be more than a CPU."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from muster.errors import MachineTrouble

if TYPE_CHECKING:
    import torch

_ACCELERATOR_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Of NVIDIA's and AMD's drivers, and of either under Windows: without one, torch on Linux finds no accelerator."""


def pick_device(wanted: str = "auto") -> "torch.device":
    """`auto` takes CUDA (or ROCm), then MPS, then the CPU; a device that is not there is an error that says so."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    available = [name for name, is_there in there.items() if is_there]
    if wanted == "auto":
        return torch.device(available[0])
    if wanted.split(":")[0] not in available:
        raise MachineTrouble(f"This machine has no device {wanted!r}; choose one of {', '.join(available)}.")
    return torch.device(wanted)


def default_dtype(wanted: str = "auto") -> str:
    """A CPU computes float32 faster than half precision, and exactly; other devices take bfloat16."""
    if wanted == "cpu" or (wanted == "auto" and not _may_accelerate()):
        return "float32"
    return "float32" if pick_device(wanted).type == "cpu" else "bfloat16"


def _may_accelerate() -> bool:
    return sys.platform != "linux" or any(Path(file).exists() for file in _ACCELERATOR_FILES)
