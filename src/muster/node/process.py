"""A worker as a process of its own: endpoint, link shaping and `worker` in one event loop. Composes; decides nothing.

Events told through `announce`: importing, measuring, measured (device), head_missing (reason), joined (node), loading,
load_failed and serving (epoch, first, last), draining, head_lost, left.
"""

import asyncio
import importlib.util
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from muster.link.base import Endpoint
from muster.link.identity import Identity, held_identity
from muster.link.iroh import IrohEndpoint
from muster.link.shaped import shaped_as
from muster.node.announce import Announce
from muster.node.devices import pick_device
from muster.node.memory import spread_little
from muster.wire.ticket import Ticket, parse, proof

if TYPE_CHECKING:
    from muster.node.lending import WorkerOptions
    from muster.node.worker import HeadDoor, Worker


@dataclass(frozen=True, slots=True)
class LendOptions:
    """What this machine lends to a pool, as its owner said it."""

    memory_bytes: int | None
    """The program and all that it holds stays below it."""
    name: str
    region: str
    device: str
    speed: float
    scenario: str | None
    data_dir: Path
    """Where its key is kept."""
    cache_dir: Path
    drain_timeout_s: float = 60.0
    once: bool = False
    """Give up where the head does not answer at first."""
    host_memory_bytes: int = 0
    """Of the host's memory beside that, for cache that is swapped."""
    disk_bytes: int = 0
    """Of a disk, for what neither of them holds."""
    disk_dir: Path | None = None
    memory_cap_bytes: int | None = None
    """Rehearse a machine that has so much for layers, whatever the program takes beside them."""
    island: str = ""
    owner: str = ""


async def run_worker(ticket_line: str, options: LendOptions, announce: Announce) -> None:
    """Runs until it is interrupted (drains first; a second interrupt leaves at once) or the head refuses it."""
    leave_threads_behind()
    key = options.data_dir / "worker.key"
    # A machine that was in the pool may come back after its ticket has expired; whether it was, the head knows.
    ticket = parse(ticket_line, 0.0 if key.exists() else time.time())
    with held_identity(key) as identity:
        await _lend(options, ticket, identity, announce)


async def _lend(options: LendOptions, ticket: Ticket, identity: Identity, announce: Announce) -> None:
    regions = {identity.node_id: options.region}
    endpoint = shaped_as(options.scenario, await IrohEndpoint.bind(identity, relay=ticket.relay), regions.get)
    worker: Worker | None = None

    async def work() -> None:
        nonlocal worker
        worker = await prepared(endpoint, ticket, options, announce, identity, regions)
        await worker.run()

    task = asyncio.create_task(work())

    def interrupted() -> None:
        on_interrupt(task.cancel)
        if worker is not None and worker.is_open:
            worker.drain()
        else:
            task.cancel()

    on_interrupt(interrupted)
    try:
        await task
    except asyncio.CancelledError:
        if not task.cancelled():
            raise
    announce("left", "Left the pool.")


def on_interrupt(act: Callable[[], object]) -> None:
    """Ctrl-C, and what service managers send, calls `act` from now on."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, act)


class _Threads(ThreadPoolExecutor):
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=False, cancel_futures=True)


def leave_threads_behind() -> None:
    """The end of this loop waits for no thread: what they do, such as reading weights, is then of use to nobody."""
    asyncio.get_running_loop().set_default_executor(_Threads(thread_name_prefix="aside"))


async def prepared(
    endpoint: Endpoint,
    ticket: Ticket,
    options: LendOptions,
    announce: Announce,
    identity: Identity,
    regions: dict[str, str] | None = None,
) -> "Worker":
    """A worker that has yet to run. What it imports takes seconds: in a thread, so that everything else goes on."""
    announce("importing", "Loading PyTorch.")
    try:
        await asyncio.to_thread(import_worker)
        from muster.node.worker import Worker

        return Worker(endpoint, door_of(ticket), node_options(options), announce, regions, identity=identity)
    except BaseException:
        await endpoint.close()  # otherwise the worker does so at its end
        raise


def import_worker() -> None:
    """`transformers` imports scipy where it finds it, for losses that no decoder has: half a second of every start."""
    spread_little()
    find = importlib.util.find_spec
    importlib.util.find_spec = lambda name, package=None: None if name == "scipy" else find(name, package)
    try:
        import muster.node.worker  # noqa: F401
    finally:
        importlib.util.find_spec = find


def node_options(options: LendOptions) -> "WorkerOptions":
    from muster.node.lending import WorkerOptions

    return WorkerOptions(
        name=options.name,
        cache_dir=options.cache_dir,
        region=options.region,
        island=options.island,
        owner=options.owner,
        device=pick_device(options.device),
        memory_bytes=options.memory_bytes,
        host_memory_bytes=options.host_memory_bytes,
        disk_bytes=options.disk_bytes,
        disk_dir=options.disk_dir,
        memory_cap_bytes=options.memory_cap_bytes,
        speed=options.speed,
        drain_timeout_s=options.drain_timeout_s,
        once=options.once,
    )


def door_of(ticket: Ticket) -> "HeadDoor":
    from muster.node.worker import HeadDoor

    return HeadDoor(ticket.address, lambda node_id: proof(ticket.secret, node_id, ticket.head))
