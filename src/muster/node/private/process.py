"""`muster private node` as a process: identity, model, endpoint and host in one event loop. Decides nothing."""

import asyncio
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from muster.errors import MusterError
from muster.link.identity import Identity, held_identity
from muster.link.iroh import IrohEndpoint
from muster.model.source import resolve
from muster.model.weights import open_directory
from muster.node.announce import Announce
from muster.node.private.host import PrivateHost
from muster.node.process import leave_threads_behind, on_interrupt
from muster.node.runners.private.model import private_model
from muster.wire.ticket import SECRET_BYTES, Ticket


@dataclass(frozen=True, slots=True)
class PrivateNodeOptions:
    model: str
    data_dir: Path
    host: str
    """The address that is listened on."""
    port: int
    ticket_s: float


async def run_private_node(options: PrivateNodeOptions, announce: Announce) -> None:
    """Until it is interrupted. Prints the ticket with which clients open sessions here."""
    leave_threads_behind()
    with held_identity(options.data_dir / "private.key") as identity:
        task = asyncio.create_task(_host(options, identity, announce))
        on_interrupt(task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
    announce("left", "Stopped.")


async def _host(options: PrivateNodeOptions, identity: Identity, announce: Announce) -> None:
    weights = open_directory(resolve(options.model))
    model = await asyncio.to_thread(private_model, weights)
    endpoint = await IrohEndpoint.bind(identity, options.port, host=options.host)
    try:
        secret = secrets.token_bytes(SECRET_BYTES)
        ticket = Ticket(identity.node_id, endpoint.address.direct, secret, time.time() + options.ticket_s)
        announce(
            "ready",
            f"Takes roles in private sessions of {options.model}. Clients need this line:\n{ticket.encode()}",
            ticket=ticket.encode(),
            node=identity.node_id,
            pid=os.getpid(),
        )
        await PrivateHost(endpoint, model, secret).run()
    except MusterError as error:
        announce("failed", str(error))
        raise
    finally:
        await endpoint.close()
