"""Machines that train together in one process, over links in memory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from muster.broker.members.trust import TrustOptions
from muster.broker.pipelines.job import JobOptions
from muster.broker.state import BrokerOptions
from muster.broker.storage.store import Store
from muster.head.training import TrainingHead, TrainingPool
from muster.link.memory import MemoryNetwork
from muster.node.lending import WorkerOptions
from muster.node.process import door_of
from muster.node.worker import Worker
from muster.spec.training import TrainingRun
from muster.train.checkpoint import Checkpoint
from muster.train.kept import without_steps
from muster.train.run import PreparedRun
from muster.wire.ticket import Ticket
from tests.flows.live_pool import LEASES, check_after, identity_of, made_up

ROOM_BYTES = 64 * 2**20


@dataclass
class TrainingMachines:
    head: TrainingHead
    prepared: PreparedRun
    network: MemoryNetwork
    folder: Path
    ticket: Ticket
    workers: dict[str, tuple[Any, Worker, "asyncio.Task[None]"]] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)

    def join(self, name: str) -> None:
        identity = identity_of(name)
        endpoint = self.network.endpoint(identity.node_id)
        options = WorkerOptions(name=name, cache_dir=self.folder / name, memory_cap_bytes=ROOM_BYTES)
        worker = Worker(endpoint, door_of(self.ticket), options, measure=made_up)
        self.workers[identity.node_id] = endpoint, worker, asyncio.create_task(worker.run())

    async def kill(self, node: str) -> None:
        """As a power cut."""
        endpoint, _, task = self.workers.pop(node)
        endpoint.crash()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def texts(self, step: int) -> Any:
        return self.prepared.corpus.batch(step, self.prepared.run.batch.sequences)

    async def losses(self, until: int) -> list[float]:
        found = []
        while self.head.training.done < until:
            found.append((await self.head.training.step(self.texts)).loss)
        return found


@asynccontextmanager
async def training_machines(
    folder: Path,
    prepared: PreparedRun,
    machines: int,
    *,
    pipelines: int = 0,
    saved: Callable[[], Checkpoint] | None = None,
    base: Path | None = None,
) -> AsyncIterator[TrainingMachines]:
    run: TrainingRun = prepared.run
    base = base or prepared.source
    assert base is not None
    first = without_steps(base)
    broker = BrokerOptions(leases=LEASES, trust=TrustOptions(everybody=True))
    pool = TrainingPool(machines, pipelines, broker=broker)
    microbatches = run.batch.sequences // run.batch.microbatch
    options = JobOptions(
        min_nodes=machines, settle_s=0.2, retry_s=0.1, most_pipelines=min(pipelines or 64, microbatches)
    )
    store = Store.at(folder / "pool.db")
    head = TrainingHead(run, prepared.shape, base, saved or (lambda: first), store, pool, options)
    network = MemoryNetwork()
    ticket = await head.start(network.endpoint(identity_of("head").node_id))
    there = TrainingMachines(head, prepared, network, folder, ticket)
    state = head.service._state
    loop = asyncio.get_running_loop()
    check_after(head.service, "_handle", lambda: state.check(loop.time()), there.troubles)
    try:
        for number in range(machines):
            there.join(f"machine-{number}")
        yield there
    finally:
        for _, _, task in there.workers.values():
            task.cancel()
        ends = await asyncio.gather(*(task for _, _, task in there.workers.values()), return_exceptions=True)
        await head.close()
        store.close()
    assert not there.troubles, there.troubles
    assert not [end for end in ends if isinstance(end, Exception)]


def with_steps(prepared: PreparedRun, **changes: Any) -> PreparedRun:
    return replace(prepared, run=TrainingRun(**(prepared.run.model_dump() | changes)))
