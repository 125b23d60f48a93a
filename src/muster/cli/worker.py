"""A running worker: endpoint, link shaping and `node/worker` in one event loop. Composes; decides nothing.

Events told through `announce`: measured (device), joined (node), loading, load_failed and serving (epoch, first, last),
draining, head_lost, left.
"""

import asyncio
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from muster.cli.show import Announcer
from muster.link.base import Endpoint
from muster.link.identity import Identity, held_identity
from muster.link.iroh import IrohEndpoint
from muster.link.shaped import load_scenario, shape
from muster.node import worker as node
from muster.node.measure import pick_device
from muster.wire.ticket import Ticket, parse, proof


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """`muster join`'s options, checked."""

    ticket: str
    memory_bytes: int | None
    name: str | None
    region: str
    device: str
    speed: float
    scenario: str | None
    data_dir: Path
    cache_dir: Path
    drain_timeout_s: float = 60.0


async def run_worker(options: WorkerOptions, announce: Announcer) -> None:
    """Runs until it is interrupted (drains first; a second interrupt leaves at once) or the head refuses it."""
    key = options.data_dir / "worker.key"
    # A machine that was in the pool may come back after its ticket has expired; whether it was, the head knows.
    ticket = parse(options.ticket, 0.0 if key.exists() else time.time())
    with held_identity(key) as identity:
        await _run_worker(options, ticket, identity, announce)


async def _run_worker(options: WorkerOptions, ticket: Ticket, identity: Identity, announce: Announcer) -> None:
    regions = {identity.node_id: options.region}
    endpoint = shaped(await IrohEndpoint.bind(identity, relay=ticket.relay), options.scenario, regions.get)
    worker = node.Worker(endpoint, door_of(ticket), node_options(options), announce, regions)
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(worker.run())

    def interrupted() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        loop.remove_signal_handler(signal.SIGTERM)
        loop.add_signal_handler(signal.SIGINT, task.cancel)
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
        worker.drain()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted)
    try:
        await task
    except asyncio.CancelledError:
        if not task.cancelled():
            raise
    announce("left", "Left the pool.")


def node_options(options: WorkerOptions) -> node.WorkerOptions:
    return node.WorkerOptions(
        name=options.name or socket.gethostname(),
        cache_dir=options.cache_dir,
        region=options.region,
        device=pick_device(options.device),
        memory_cap_bytes=options.memory_bytes,
        speed=options.speed,
        drain_timeout_s=options.drain_timeout_s,
    )


def door_of(ticket: Ticket) -> node.HeadDoor:
    return node.HeadDoor(ticket.address, lambda node_id: proof(ticket.secret, node_id, ticket.head))


def shaped(endpoint: Endpoint, scenario: str | None, region_of: Callable[[str], str | None]) -> Endpoint:
    """The endpoint as it is, or slowed down as the scenario says."""
    return endpoint if scenario is None else shape(endpoint, load_scenario(scenario), region_of)
