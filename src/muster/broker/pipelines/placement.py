"""One pipeline on its way from plan to service. Knows nothing of the nodes' leases or of other placements.

    planned ── assign ──> loading ── every node says Loaded ──> ready

While another placement still serves, a node that cannot hold both stages at once is *deferred*: it is assigned when
everybody else has the weights, and the serving placement makes way.
"""

from dataclasses import dataclass, field

from muster.broker.events import PipelineId
from muster.broker.pipelines.job import JobModel
from muster.cost.island import holder
from muster.cost.memory import stage_bytes, workspace_of
from muster.cost.offload.booked import streamed_bytes
from muster.cost.offload.rates import UNMEASURED_DISK_BYTES_PER_S
from muster.cost.swapping import host_bytes
from muster.plan.private.memory import private_bytes
from muster.plan.quick.tables import PlanOptions
from muster.plan.replan.change import capacity_of
from muster.plan.train.memory import placed_bytes
from muster.sim.serve.stage_time import StagePace, StepLoad
from muster.spec.capacity import UNKNOWN, Capacity
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Plan, PrivateSettings, ServeSettings, Stage, TrainSettings
from muster.spec.pool import Node, NodeId, Pool
from muster.verify.receipts import ReceiptRing
from muster.wire.messages.base import Address
from muster.wire.messages.placement import Assign


@dataclass(slots=True)
class Load:
    """How far one node has come."""

    started_s: float
    heard_s: float
    """When it last got further."""
    done_bytes: int = 0
    total_bytes: int = 0
    has_weights: bool = False
    loaded: bool = False


@dataclass(slots=True)
class Placement:
    id: PipelineId
    model: JobModel
    epoch: int
    pipeline: Pipeline
    step_seconds: float
    """Forecast of the slowest stage's time for one step; while it serves, for a decode step."""
    longest_step_seconds: float
    """The same for a step as long as steps can be here."""
    explanation: str
    capacity: Capacity = UNKNOWN
    """What is forecast of it."""
    loads: dict[NodeId, Load] = field(default_factory=dict)
    """Nodes that were assigned."""
    checked_s: float | None = None
    """Since when its codecs are being checked."""
    deferred: set[NodeId] = field(default_factory=set)
    """Nodes that will be assigned when the serving placement makes way."""
    nobody_else: bool = False
    """Whether it was made with all machines that there are, because those that are established did not suffice."""

    @classmethod
    def of(
        cls, id: PipelineId, model: JobModel, epoch: int, plan: Plan, pool: Pool, options: PlanOptions
    ) -> "Placement":
        """Of a plan that was made for one pipeline, whose machines are in the pool."""
        pipeline = plan.only_pipeline
        longest_s = max(plan.step_seconds, longest_step_seconds(pipeline, model.shape, pool, options))
        capacity = UNKNOWN
        if isinstance(pipeline.work, ServeSettings):
            capacity = capacity_of(pipeline, model.shape, pool, options)
        return cls(id, model, epoch, pipeline, plan.step_seconds, longest_s, plan.explanation, capacity)

    def receipt_ring(self, head: NodeId) -> ReceiptRing:
        """What its machines' receipts are about."""
        stages = self.pipeline.stages
        cuts = (*(stage.first for stage in stages), stages[-1].last)
        manifest, dtype = self.model.manifest, self.model.shape.dtype
        return ReceiptRing(self.epoch, head, self.pipeline.nodes(), cuts, manifest, dtype)

    @property
    def nodes(self) -> tuple[NodeId, ...]:
        """All that hold anything of it; the first one schedules."""
        return self.pipeline.members()

    @property
    def ring(self) -> tuple[NodeId, ...]:
        """Those among them that speak for their stages, in the order of these."""
        return self.pipeline.nodes()

    def stage(self, node: NodeId) -> Stage | None:
        return next((stage for stage in self.pipeline.stages if node in stage.members), None)

    def bytes_on(self, node: NodeId) -> int:
        """Memory that this placement takes on `node`; 0 if it has no stage there."""
        stage = self.stage(node)
        if stage is None:
            return 0
        work = self.pipeline.work
        if isinstance(work, TrainSettings):
            return placed_bytes(self.model.shape, self.pipeline, self.pipeline.stages.index(stage))
        if isinstance(work, PrivateSettings):
            return private_bytes(self.model.shape, work, work.roles[self.pipeline.stages.index(stage)])
        if stage.memory.offloads:
            return stage.memory.device_bytes
        workspace = workspace_of(work, self.model.workspace)
        return stage_bytes(self.model.shape, stage.first, stage.last, work.cache_tokens, workspace, stage.degree)

    def host_bytes_on(self, node: NodeId) -> int:
        """Likewise of the host's memory."""
        stage = self.stage(node)
        if stage is not None and stage.memory.offloads:
            return stage.memory.host_bytes
        return 0 if stage is None else host_bytes(self.model.shape, stage.first, stage.last, self.pipeline.work)

    def holds(self, node: NodeId) -> bool:
        """Whether the node was told to hold its stage."""
        return node in self.loads

    @property
    def is_ready(self) -> bool:
        return len(self.loads) == len(self.nodes) and all(load.loaded for load in self.loads.values())

    @property
    def can_switch(self) -> bool:
        """Whether only the deferred nodes are missing."""
        return bool(self.deferred) and all(load.loaded or load.has_weights for load in self.loads.values())

    def neighbours(self, node: NodeId) -> set[NodeId]:
        """Whom it dials, or is dialled by."""
        stage, order = self.stage(node), self.ring
        beside = set(stage.members) if stage is not None else set()
        if node in order:
            index = order.index(node)
            beside |= {order[index - 1], order[(index + 1) % len(order)]}
        return beside - {node}

    def following(self, node: NodeId) -> NodeId:
        """Whom it dials first: the next stage, or the first member of its own."""
        order = self.ring
        if node in order:
            return order[(order.index(node) + 1) % len(order)]
        stage = self.stage(node)
        return stage.node if stage is not None else node

    def assignment(self, node: NodeId, peers: tuple[Address, ...]) -> Assign:
        return Assign(
            epoch=self.epoch,
            job=self.id.job,
            model=self.model.shape.name,
            manifest=self.model.manifest,
            dtype=self.model.shape.dtype,
            index=next(index for index, stage in enumerate(self.pipeline.stages) if node in stage.members),
            pipeline=_instructed(self.pipeline, self.model),
            peers=peers,
            few_bits=self.model.shape.few_bits,
        )


def _instructed(pipeline: Pipeline, model: JobModel) -> Pipeline:
    """With what the plan left to whoever knows the model."""
    if not isinstance(pipeline.work, ServeSettings):
        return pipeline
    return pipeline.with_work(
        prefill_tokens=pipeline.work.prefill_tokens or model.workspace.prefill_tokens,
        eos_token_ids=model.eos_token_ids,
        draft=model.draft,
    )


def longest_step_seconds(pipeline: Pipeline, shape: ModelShape, pool: Pool, options: PlanOptions) -> float:
    """Of the slowest stage, for a step full of prompt tokens at the end of the longest text, and full of sequences.

    0 for a pipeline that does not serve.
    """
    work = pipeline.work
    if not isinstance(work, ServeSettings):
        return 0.0
    tokens, longest = work.prefill_tokens or options.workspace.prefill_tokens, min(shape.max_context, work.cache_tokens)
    batch = work.batch or options.batch
    load = StepLoad(batch, longest, ((max(0, longest - tokens), tokens),), batch + 1)
    nodes = {node.id: node for node in pool.nodes}
    holders = [(stage, holder(pool, nodes, stage)) for stage in pipeline.stages]
    return max(
        StagePace(shape, stage, node, options.constants).seconds(load) + fetching_seconds(shape, stage, node)
        for stage, node in holders
    )


def fetching_seconds(shape: ModelShape, stage: Stage, node: Node) -> float:
    """In which a stage that offloads reads its weights and all of its cache from disk, at a fifth of its rate."""
    if not stage.memory.offloads:
        return 0.0
    nbytes = streamed_bytes(shape, stage.first, stage.last, stage.memory) + node.device.memory_bytes
    return 5 * nbytes / (node.device.disk_bandwidth_bytes_per_s or UNMEASURED_DISK_BYTES_PER_S)
