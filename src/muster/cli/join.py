"""`muster join TICKET`: lend this machine to a pool. Reads options; the worker itself is in `node`."""

import asyncio
import socket
import time
from pathlib import Path
from typing import Annotated

import typer

from muster.cli.options import (
    ComputeDevice,
    DataDir,
    Disk,
    DiskDir,
    Island,
    Json,
    MachineName,
    Owner,
    Region,
    ScenarioName,
    parse_bytes,
)
from muster.cli.output import Announcer
from muster.cli.waiting import waiting
from muster.head.data_directory import data_dir

Memory = Annotated[
    str | None,
    typer.Option(
        help="Lend so much memory, such as 8GB. All that Muster takes here stays below it.",
        show_default="most of what is free",
    ),
]
HostMemory = Annotated[
    str | None,
    typer.Option(
        help="Lend so much of the host's memory beside that, for cache that waits there while others compute.",
        show_default="none",
    ),
]
LayerMemory = Annotated[
    str | None,
    typer.Option(
        help="Rehearse a machine with so much memory for layers; what Muster itself takes is not counted.", hidden=True
    ),
]
Once = Annotated[
    bool, typer.Option("--once", help="Give up if the head does not answer, instead of dialling until it does.")
]


def join(
    ticket: Annotated[
        str,
        typer.Argument(
            envvar="MUSTER_TICKET",
            help="The line that `muster serve` or `muster train --pool` printed. In the environment, other users of "
            "this machine do not see it.",
        ),
    ],
    memory: Memory = None,
    host_memory: HostMemory = None,
    disk: Disk = None,
    disk_dir: DiskDir = None,
    name: MachineName = None,
    region: Region = "home",
    island: Island = "",
    owner: Owner = "",
    device: ComputeDevice = "auto",
    speed: Annotated[float, typer.Option(min=0.01, max=1.0, help="Lend this share of the machine's speed.")] = 1.0,
    scenario: ScenarioName = None,
    data_dir_: DataDir = None,
    cache_dir: Annotated[
        Path | None, typer.Option(help="Keep fetched weights in this folder.", show_default="the data directory")
    ] = None,
    layer_memory: LayerMemory = None,
    once: Once = False,
    as_json: Json = False,
) -> None:
    """Lend this machine to the pool that printed TICKET, to serve or to train."""
    from muster.wire.ticket import parse

    # Before anything slow is imported.
    sizes = [parse_bytes(size) if size else None for size in (memory, host_memory, disk, layer_memory)]
    memory_bytes, host_memory_bytes, disk_bytes, memory_cap_bytes = sizes
    parse(ticket, time.time())
    with waiting("starting", as_json):
        from muster.cli.logs import configure_logs

        configure_logs()
        from muster.node.process import LendOptions, run_worker

    folder = data_dir(data_dir_)
    options = LendOptions(
        memory_bytes=memory_bytes,
        host_memory_bytes=host_memory_bytes or 0,
        disk_bytes=disk_bytes or 0,
        disk_dir=disk_dir,
        name=name or socket.gethostname(),
        region=region,
        island=island,
        owner=owner,
        device=device,
        speed=speed,
        scenario=scenario,
        data_dir=folder,
        cache_dir=cache_dir or folder / "cache",
        once=once,
        memory_cap_bytes=memory_cap_bytes,
    )
    asyncio.run(run_worker(ticket, options, Announcer(as_json)))
