"""Where a head listens for machines: at the port of last time, if it can. Knows nothing of what is said there."""

from pathlib import Path

import structlog

from muster.errors import MachineTrouble
from muster.head.data_directory import last_link_port
from muster.link.identity import Identity
from muster.link.iroh import IrohEndpoint

log = structlog.get_logger()


async def bind_where_it_was(identity: Identity, folder: Path, link_port: int, relay: str | None) -> IrohEndpoint:
    """At the port of last time, unless one is asked for: machines look for a restarted head where they knew it."""
    port = link_port or last_link_port(folder)
    try:
        endpoint = await IrohEndpoint.bind(identity, port, relay)
    except MachineTrouble:
        if link_port or not port:
            raise
        endpoint = await IrohEndpoint.bind(identity, 0, relay)
        log.warning("link.port_changed", taken=port, port=endpoint.port, remedy="give the machines a new ticket")
    return endpoint
