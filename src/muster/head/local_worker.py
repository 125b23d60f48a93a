"""This machine's own share of the work: a worker like any other, that happens to live in the head's process."""

import asyncio
import socket
from typing import Any

from muster.errors import NotAllowed
from muster.head.options import HeadOptions
from muster.link.identity import held_identity
from muster.link.iroh import IrohEndpoint
from muster.node.announce import Announce
from muster.node.devices import pick_device
from muster.node.process import door_of
from muster.node.worker import Worker, WorkerOptions
from muster.wire.ticket import Ticket


async def local_worker(options: HeadOptions, ticket: Ticket, announce: Announce) -> None:
    """Runs until cancelled, also when the operator has banned it: the head and the other machines go on."""
    worker_options = WorkerOptions(
        name=options.name or socket.gethostname(),
        cache_dir=options.data_dir / "cache",
        region=options.region,
        device=pick_device(options.device),
        memory_cap_bytes=options.memory_bytes,
    )
    try:
        with held_identity(options.data_dir / "worker.key") as identity:
            endpoint = await IrohEndpoint.bind(identity)
            await Worker(endpoint, door_of(ticket), worker_options, quiet(announce)).run()
    except NotAllowed as error:
        announce("left", f"This machine computes no more: {error}", name=worker_options.name)
        await asyncio.Event().wait()


def quiet(announce: Announce) -> Announce:
    """The head tells of joins and placements itself; of its own worker only what nobody else says."""

    def tell(event: str, sentence: str, **facts: Any) -> None:
        if event in ("measured", "load_failed"):
            announce(event, sentence, **facts)

    return tell
