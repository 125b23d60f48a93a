"""A training run whose places are machines of a pool: this process is its head, and holds no layers.

`TrainingHead` is what it is made of: a broker with one job, and `client/training` that trains over its routes.
`PoolRunning` is the run as `train/run` knows it, with places that are elsewhere; everything asynchronous is in a thread
of its own.
"""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from muster.broker.members.trust import TrustOptions
from muster.broker.pipelines.job import JobModel, JobOptions
from muster.broker.pipelines.train import train_job
from muster.broker.service import BrokerService
from muster.broker.state import BrokerOptions
from muster.broker.storage.store import Store
from muster.client.training import PoolDoor, PoolTraining
from muster.cost.memory import WorkspaceOptions
from muster.errors import PoolUnavailable, Unsupported
from muster.head.compose import blob_reader
from muster.link.base import Endpoint
from muster.model.blobs import DirectoryBlobs, build_manifest
from muster.spec.model_name import model_name
from muster.spec.model_shape import ModelShape
from muster.spec.plan import TrainSettings
from muster.spec.training import BatchTable, TrainingRun
from muster.train.checkpoint import Checkpoint
from muster.train.instructions import Tensors
from muster.train.kept import without_steps
from muster.train.local import TextsOf, TrainingPipelines
from muster.train.run import PreparedRun, Running, Say
from muster.train.score import Score
from muster.train.step import StepReport
from muster.wire.ticket import Ticket

Result = TypeVar("Result")
MAX_PIPELINES = 64
POLL_S = 0.25
STATE_SHARE = 4
"""Weights and two moments of the optimizer are three times the weights; names and counts take the rest."""


@dataclass(frozen=True, slots=True)
class TrainingPool:
    """What is wanted of the pool."""

    machines: int
    """The first placement waits for so many."""
    pipelines: int = 0
    """At most; 0 makes as many as the machines suffice for."""
    ticket_s: float = 24 * 3600.0
    broker: BrokerOptions = field(default_factory=lambda: BrokerOptions(trust=TrustOptions(everybody=True)))
    """Whoever has the ticket is believed: a machine that trains could spoil the model in any case."""


def training_options(run: TrainingRun, pool: TrainingPool) -> JobOptions:
    microbatches = run.batch.sequences // run.batch.microbatch
    most = min(pool.pipelines or MAX_PIPELINES, microbatches)
    return JobOptions(
        min_nodes=pool.machines, most_pipelines=most, fewer="train with a lower --pool", longest_settle_s=10.0
    )


def settings_of(run: TrainingRun) -> TrainSettings:
    """Of a pipeline that makes every step alone."""
    batch = run.batch
    return TrainSettings(
        batch.sequences // batch.microbatch,
        batch.microbatch,
        batch.length,
        batch.recompute,
        batch.schedule,
        run.precision,
    )


class TrainingHead:
    """`start`, then `training` at will, then `close`."""

    training: PoolTraining
    service: BrokerService

    def __init__(
        self, run: TrainingRun, shape: ModelShape, base: Path, saved: Callable[[], Checkpoint], store: Store,
        pool: TrainingPool, options: JobOptions | None = None,
    ) -> None:  # fmt: skip
        """`base` is a model's folder from which machines get their first weights."""
        self._run, self._saved, self._store, self._pool = run, saved, store, pool
        name = model_name(run.model)
        manifest = build_manifest(base, name)
        self._blobs = DirectoryBlobs(base, manifest)
        self._weight_bytes = shape.weight_bytes(0, shape.num_layers)
        model = JobModel(replace(shape, name=name), manifest.digest, workspace=WorkspaceOptions())
        stages = run.stages if "stages" in run.model_fields_set else 0
        self.job = train_job(name, model, settings_of(run), options or training_options(run, pool), stages)

    async def start(self, endpoint: Endpoint) -> Ticket:
        service = BrokerService([self.job], self._store, blob_reader(self._blobs), options=self._pool.broker)
        await service.start(endpoint)
        self.service = service
        door = PoolDoor(
            lambda node: service.open(node, "data"),
            service.address,
            service.suspect,
            service.accuse,
            lambda: any(pipeline["loading"] for job in service.status()["jobs"] for pipeline in job["pipelines"]),
        )
        self.training = PoolTraining(self._run, door, self._saved, STATE_SHARE * self._weight_bytes + 2**20)
        self._following = asyncio.create_task(self.training.follow(service.watch(self.job.name)))
        return await service.issue_ticket(self._pool.ticket_s)

    async def close(self) -> None:
        self.service.stand_still()
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)
        await self.service.close()


Open = Callable[[], Awaitable[Endpoint]]
Ready = Callable[[TrainingHead, Ticket], Coroutine[Any, Any, None]]
"""Runs beside the head once its door is open, until the run is over."""


class PoolRunning(Running):
    """See `Running`. `close` ends it."""

    def __init__(
        self, prepared: PreparedRun, folder: Path, pool: TrainingPool, open_endpoint: Open, ready: Ready, say: Say
    ) -> None:
        """`folder` keeps what the head remembers of its pool."""
        if prepared.run.lora is not None:
            raise Unsupported("Adapters are trained on one machine so far; leave out --pool, or [lora].", "lora")
        self._interrupted: Callable[[], bool] = lambda: False
        self._folder, self._pool, self._open, self._ready = folder, pool, open_endpoint, ready
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="training-head")
        self._beside: asyncio.Task[None] | None = None
        self._store: Store | None = None
        self.head: TrainingHead | None = None
        self._newest: Checkpoint | None = None
        try:
            super().__init__(prepared, (), say)
        except BaseException:
            self.close()
            raise

    def _build(self, found: Checkpoint | None, devices: Sequence[Any]) -> TrainingPipelines:
        base = self.prepared.source if found is None else found.path
        assert base is not None
        self._newest = found or without_steps(base)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._store = Store.at(self._folder / "pool.db")
        self.head = head = TrainingHead(
            self.prepared.run, self.prepared.shape, base, self._last, self._store, self._pool
        )
        self._thread.start()

        async def start() -> None:
            ticket = await head.start(await self._open())
            self._beside = asyncio.create_task(self._ready(head, ticket))

        asyncio.run_coroutine_threadsafe(start(), self._loop).result()
        self._elsewhere = _Elsewhere(head, self._call)
        return self._elsewhere

    def facts(self) -> dict[str, Any]:
        assert self.head is not None
        return {"pipelines": self.head.training.pipelines, "round": self.head.training.rounds}

    def stop_when(self, interrupted: Callable[[], bool]) -> None:
        self._interrupted = interrupted

    def _last(self) -> Checkpoint:
        assert self._newest is not None
        return self._newest

    def save(self) -> Path:
        """Where machines were lost meanwhile, of the step to which all went back."""
        self.done = self._elsewhere.done
        if self.done == self._last().step and self._last().path.parent == self.prepared.checkpoints:
            return self._last().path
        path = super().save()
        self._newest = Checkpoint(path, self.done, self.prepared.identity)
        return path

    def finish(self) -> Path:
        while self._elsewhere.done < self._run.steps:
            self.done = self._elsewhere.done
            self.step()
        return super().finish()

    def _call(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Raises `PoolUnavailable` where the wait for machines is interrupted."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        while True:
            with contextlib.suppress(TimeoutError):
                return future.result(POLL_S)
            if future.done():
                return future.result()
            assert self.head is not None
            if self._interrupted() and not self.head.training.pipelines:
                future.cancel()
                raise PoolUnavailable(
                    "Stopped while no pipeline was there; run again to go on from the last checkpoint."
                )

    def close(self) -> None:
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()
        if self._store is not None:
            self._store.close()

    async def _end(self) -> None:
        if self._beside is not None:  # else the door never opened
            self._beside.cancel()
            await asyncio.gather(self._beside, return_exceptions=True)
            assert self.head is not None
            await self.head.close()
        await asyncio.get_running_loop().shutdown_default_executor()


class _Elsewhere:
    """Implements `TrainingPipelines`: what is asked of local places, asked of the pool."""

    trainers: Mapping[Any, Any] = {}

    def __init__(self, head: TrainingHead, call: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._head, self._call = head, call
        self._state: tuple[int, Tensors, Tensors] | None = None

    def train(self, step: int, texts_of: TextsOf, batch: BatchTable) -> StepReport:
        self._state = None
        report: StepReport = self._call(self._head.training.step(texts_of))
        return report

    def judge(self, texts: Any, batch: BatchTable) -> Score:
        score: Score = self._call(self._head.training.score(texts))
        return score

    def tensors(self) -> Tensors:
        return self._held()[1]

    def optimizer_state(self) -> Tensors:
        return self._held()[2]

    @property
    def done(self) -> int:
        """How many steps are in what `tensors` and `optimizer_state` give."""
        return self._held()[0]

    def _held(self) -> tuple[int, Tensors, Tensors]:
        """Fetched once for each step."""
        if self._state is None:
            self._state = self._call(self._head.training.state())
        assert self._state is not None
        return self._state
