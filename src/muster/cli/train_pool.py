"""What `muster train --pool` does beside `train_work`: a head for machines that join, and a run over them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from muster.cli.output import Announcer
from muster.cli.train_work import session
from muster.cli.waiting import waiting
from muster.head.bind import bind_where_it_was
from muster.head.data_directory import remember_link_port
from muster.head.training import PoolRunning, TrainingHead, TrainingPool
from muster.head.watch import watch
from muster.link.base import Endpoint
from muster.link.identity import Identity, held_identity
from muster.spec.training import TrainingRun
from muster.train.run import prepare
from muster.wire.ticket import Ticket

FOLDER = "pool"
"""Below `out`: what the head remembers of its machines."""


@dataclass(frozen=True, slots=True)
class PoolWords:
    """What the command line says of the pool."""

    machines: int
    link_port: int = 0
    relay: str | None = None
    data_dir: Path | None = None
    """By default a folder of the run's."""
    ticket_s: float = 24 * 3600.0


def carry_out_on_pool(run: TrainingRun, folder: Path, words: PoolWords, as_json: bool) -> None:
    """Paths in the run are relative to `folder`."""
    tell = Announcer(as_json)
    with waiting("reading the model", as_json) as say:
        prepared = prepare(run, folder, say)
    keeps = words.data_dir or prepared.out / FOLDER
    keeps.mkdir(mode=0o700, parents=True, exist_ok=True)
    with held_identity(keeps / "identity.key") as identity:
        pool = TrainingPool(words.machines, _pipelines(run), words.ticket_s)
        door = _Door(identity, keeps, words, tell)
        running = PoolRunning(prepared, keeps, pool, door.open, door.ready, lambda words: None)
        try:
            session(prepared, running, None, None, tell, as_json)
        finally:
            running.close()


def _pipelines(run: TrainingRun) -> int:
    """As many as the run says, or as the machines suffice for."""
    return run.replicas if "replicas" in run.model_fields_set else 0


@dataclass(frozen=True, slots=True)
class _Door:
    identity: Identity
    folder: Path
    words: PoolWords
    tell: Callable[..., None]

    async def open(self) -> Endpoint:
        endpoint = await bind_where_it_was(self.identity, self.folder, self.words.link_port, self.words.relay)
        remember_link_port(self.folder, endpoint.port)
        return endpoint

    async def ready(self, head: TrainingHead, ticket: Ticket) -> None:
        line, machines = ticket.encode(), self.words.machines
        self.tell(
            "listening",
            f"{head.job.model.shape.name} is trained as soon as {machines} machine{'s' * (machines != 1)} "
            f"{'are' if machines != 1 else 'is'} here. Join one with:\n\n  muster join {line}\n",
            ticket=line,
            model=head.job.model.shape.name,
        )
        await watch(head.service, self.tell, verb="Training")
