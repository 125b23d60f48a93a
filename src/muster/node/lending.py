"""What a machine lends, as its owner said it, and what it can do within that. Knows no head and no layers."""

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import replace as with_changes
from pathlib import Path

import torch

from muster.node.measure import measure_device
from muster.node.memory import check_disk, check_host_memory, check_promise, give_back, left_for_layers
from muster.spec.pool import Device


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    name: str
    cache_dir: Path
    region: str = ""
    island: str = ""
    """Machines that name the same one may share layers."""
    owner: str = ""
    """In private sessions machines of one owner count as one."""
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - immutable
    memory_bytes: int | None = None
    """What the owner lends: the program and all that it holds stays below it. None lends what is free."""
    host_memory_bytes: int = 0
    """Lent of the host's memory beside that."""
    disk_bytes: int = 0
    """Lent of a disk, for what neither of them holds."""
    disk_dir: Path | None = None
    """Where on it; else beside the cache of weights."""
    memory_cap_bytes: int | None = None
    """What layers may take, whatever the program takes beside them: a rehearsal of small machines on a large one."""
    speed: float = 1.0
    """Below 1 rehearses a slower machine."""
    drain_timeout_s: float = 60.0
    once: bool = False
    """Give up where the head does not answer at first; otherwise it is dialled until it does."""


Measure = Callable[[WorkerOptions], Device]


def measured(options: WorkerOptions) -> Device:
    """What this machine can do under these options. Raises `InvalidRequest` when it lends too little for anything."""
    lent, kind, room = options.memory_bytes, options.device.type, None
    check_host_memory(options.host_memory_bytes, lent, kind)
    check_disk(options.disk_bytes, options.disk_dir or options.cache_dir)
    if lent is not None:
        check_promise(lent, kind)
        room = left_for_layers(lent, kind)
    device = measure_device(options.device, options.cache_dir, options.speed, room)
    give_back()
    free = device.memory_bytes - (options.host_memory_bytes if kind == "cpu" and lent is None else 0)
    memory = min(one for one in (free, options.memory_cap_bytes, room) if one is not None)
    return with_changes(
        device,
        memory_bytes=memory,
        host_memory_bytes=options.host_memory_bytes,
        disk_bytes=options.disk_bytes,
    )
