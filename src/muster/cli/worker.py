"""A running worker: endpoint, link shaping and `node/worker` in one event loop. Composes; decides nothing.

Events told through `announce`: joined (node, name, head), measured (device), loading (epoch, done_bytes, total_bytes),
serving (epoch, first, last), released (epoch).
"""

from dataclasses import dataclass
from pathlib import Path

from muster.cli.show import Announcer
from muster.errors import Unsupported


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """`muster join`'s options, checked."""

    ticket: str
    memory_bytes: int | None
    name: str | None
    region: str
    device: str
    speed: float
    scenario: Path | None
    data_dir: Path
    cache_dir: Path


async def run_worker(options: WorkerOptions, announce: Announcer) -> None:
    """Runs until it is interrupted or the head refuses it."""
    raise Unsupported(f"Joining as {options.name} is not wired up yet; {announce.as_json}.")
