"""`muster join TICKET`: lend this machine to a pool. Reads options; the worker itself is in `node`."""

import asyncio
import socket
import time
from pathlib import Path
from typing import Annotated

import typer

from muster.cli.options import ComputeDevice, DataDir, Json, MachineName, Region, ScenarioName, parse_bytes
from muster.cli.output import Announcer
from muster.cli.waiting import waiting
from muster.head.data_directory import data_dir


def join(
    ticket: Annotated[
        str,
        typer.Argument(
            envvar="MUSTER_TICKET",
            help="The line that `muster serve` printed. In the environment, other users of this machine do not see it.",
        ),
    ],
    memory: Annotated[
        str | None, typer.Option(help="Lend at most so much memory, such as 8GB.", show_default="most of what is free")
    ] = None,
    name: MachineName = None,
    region: Region = "home",
    device: ComputeDevice = "auto",
    speed: Annotated[float, typer.Option(min=0.01, max=1.0, help="Lend this share of the machine's speed.")] = 1.0,
    scenario: ScenarioName = None,
    data_dir_: DataDir = None,
    cache_dir: Annotated[
        Path | None, typer.Option(help="Keep fetched weights in this folder.", show_default="the data directory")
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Give up if the head does not answer, instead of dialling until it does.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Lend this machine to the pool that printed TICKET."""
    from muster.wire.ticket import parse

    memory_bytes = parse_bytes(memory) if memory else None  # both before anything slow is imported
    parse(ticket, time.time())
    with waiting("starting", as_json):
        from muster.cli.logs import configure_logs

        configure_logs()
        from muster.node.process import LendOptions, run_worker

    folder = data_dir(data_dir_)
    options = LendOptions(
        memory_bytes=memory_bytes,
        name=name or socket.gethostname(),
        region=region,
        device=device,
        speed=speed,
        scenario=scenario,
        data_dir=folder,
        cache_dir=cache_dir or folder / "cache",
        once=once,
    )
    asyncio.run(run_worker(ticket, options, Announcer(as_json)))
