"""This machine's own share of the work: a worker like any other, that happens to live in the head's process."""

import asyncio
import socket
from typing import Any

from muster.errors import NotAllowed
from muster.head.options import HeadOptions
from muster.link.identity import Identity
from muster.link.iroh import IrohEndpoint
from muster.node.announce import Announce
from muster.node.process import LendOptions, prepared
from muster.wire.ticket import Ticket


async def local_worker(options: HeadOptions, identity: Identity, ticket: Ticket, announce: Announce) -> None:
    """Runs until cancelled, also when the operator has banned it: the head and the other machines go on."""
    lent = lent_by(options)
    try:
        endpoint = await IrohEndpoint.bind(identity)
        worker = await prepared(endpoint, ticket, lent, quiet(announce), identity)
        await worker.run()
    except NotAllowed as error:
        announce("left", f"This machine computes no more: {error}", name=lent.name)
        await asyncio.Event().wait()


def lent_by(options: HeadOptions) -> LendOptions:
    return LendOptions(
        memory_bytes=options.memory_bytes,
        host_memory_bytes=options.host_memory_bytes,
        disk_bytes=options.disk_bytes,
        disk_dir=options.disk_dir,
        name=options.name or socket.gethostname(),
        region=options.region,
        device=options.device,
        speed=1.0,
        scenario=None,
        data_dir=options.data_dir,
        cache_dir=options.data_dir / "cache",
    )


def quiet(announce: Announce) -> Announce:
    """The head tells of joins and placements itself; of its own worker only what nobody else says."""

    def tell(event: str, sentence: str, **facts: Any) -> None:
        if event in ("importing", "measuring", "measured", "load_failed"):
            announce(event, sentence, **facts)

    return tell
