"""Which device of this machine computes."""

from typing import TYPE_CHECKING

from muster.errors import MachineTrouble

if TYPE_CHECKING:
    import torch


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
