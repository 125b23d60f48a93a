"""A worker as a process of its own: endpoint, link shaping and `worker` in one event loop. Composes; decides nothing.

Events told through `announce`: measured (device), joined (node), loading, load_failed and serving (epoch, first, last),
draining, head_lost, left.
"""

import asyncio
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from muster.link.identity import Identity, held_identity
from muster.link.iroh import IrohEndpoint
from muster.link.shaped import shaped_as
from muster.node import worker as node
from muster.node.announce import Announce
from muster.node.devices import pick_device
from muster.wire.ticket import Ticket, parse, proof


@dataclass(frozen=True, slots=True)
class JoinOptions:
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


async def run_worker(options: JoinOptions, announce: Announce) -> None:
    """Runs until it is interrupted (drains first; a second interrupt leaves at once) or the head refuses it."""
    key = options.data_dir / "worker.key"
    # A machine that was in the pool may come back after its ticket has expired; whether it was, the head knows.
    ticket = parse(options.ticket, 0.0 if key.exists() else time.time())
    with held_identity(key) as identity:
        await _lend(options, ticket, identity, announce)


async def _lend(options: JoinOptions, ticket: Ticket, identity: Identity, announce: Announce) -> None:
    regions = {identity.node_id: options.region}
    endpoint = shaped_as(options.scenario, await IrohEndpoint.bind(identity, relay=ticket.relay), regions.get)
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


def node_options(options: JoinOptions) -> node.WorkerOptions:
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
