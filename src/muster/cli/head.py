"""A running head: broker, HTTP door, client session and, if wanted, a worker of its own, in one event loop.

Composes; decides nothing. What happens is told through `announce`, whose events are the contract with `lab/processes`:

    listening  url, ticket, model            the door is open
    joined     node, name, region            a machine is here
    placed     epoch, stages                 [{node, name, region, first, last}]
    left       node, name, reason
"""

from dataclasses import dataclass
from pathlib import Path

from muster.cli.show import Announcer
from muster.errors import Unsupported


@dataclass(frozen=True, slots=True)
class HeadOptions:
    """`muster serve`'s options, checked."""

    model: str
    host: str
    port: int
    data_dir: Path
    local_worker: bool
    memory_bytes: int | None
    name: str | None
    region: str
    scenario: str | None
    dtype: str | None
    device: str
    max_context: int | None
    min_nodes: int
    link_port: int
    relay: str | None
    ticket_s: float


async def run_head(options: HeadOptions, announce: Announcer) -> None:
    """Runs until it is interrupted."""
    raise Unsupported(f"Serving {options.model} is not wired up yet; {announce.as_json}.")
