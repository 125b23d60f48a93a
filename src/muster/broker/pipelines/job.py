"""What a pool is to do: jobs, each with its model, its planner and its options. Knows no machine and no placement."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from muster.cost.dtypes import dtypes_to_try
from muster.cost.memory import WorkspaceOptions
from muster.plan.quick.tables import PlanOptions
from muster.plan.replan.pinned import Pinned
from muster.plan.serve.options import Pin
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Draft, Pipeline, Plan, ServeSettings
from muster.spec.pool import Node, NodeId, Pool

SearchPlan = Callable[[ModelShape, Pool, PlanOptions, Callable[[], bool]], Plan]
"""Model, pool, options and whether to come to an end -> the best plan that was found."""


@dataclass(frozen=True, slots=True)
class JobModel:
    """The model that a job serves or trains."""

    shape: ModelShape
    manifest: str
    """BLAKE3 of the manifest."""
    eos_token_ids: tuple[int, ...] = ()
    workspace: WorkspaceOptions = field(default_factory=WorkspaceOptions)
    choices: tuple[ModelShape, ...] = ()
    """The model in every dtype that it may be served in, the checkpoint's own first. Empty: only as `shape` says."""
    draft: Draft | None = None
    """Its memory is in `workspace`."""
    calibration: tuple[int, ...] = ()
    """Tokens of a text by which codecs on links are judged; without one no codec is used."""

    def suited_to(self, nodes: Iterable[Node]) -> tuple["JobModel", ...]:
        """The same in the dtypes to try on these machines, one after the other until they can hold it."""
        shapes = {shape.dtype: shape for shape in self.choices or (self.shape,)}
        return tuple(replace(self, shape=shapes[dtype]) for dtype in dtypes_to_try(tuple(shapes), nodes))


@dataclass(frozen=True, slots=True)
class PlannedPipeline:
    """One pipeline of a plan that the operator wants."""

    pins: tuple[Pin, ...]
    """All of its stages."""
    work: ServeSettings | None = None


@dataclass(frozen=True, slots=True)
class JobOptions:
    min_nodes: int = 1
    """The first placement waits for this many machines."""
    fewer: str = "serve with a lower --min-nodes"
    """How the operator asks for fewer of them."""
    settle_s: float = 1.0
    """Before the first placement, wait until nobody has joined for this long: machines tend to come in a group."""
    longest_settle_s: float = 5.0
    """But not longer than this after somebody could be used."""
    own_machine: NodeId | None = None
    """The head's own, if it computes: where that holds the whole model alone, the first placement waits for nobody."""
    retry_s: float = 1.0
    """Between attempts to place on a pool that did not suffice."""
    rebalance_s: float = 30.0
    """Between looks for something better while everything runs; longer after each switch."""
    longest_rebalance_s: float = 3600.0
    """But not longer than this."""
    pins: tuple[Pin, ...] = ()
    """Machines, by name or id, that get these layers whenever the pool can serve so."""
    pin_wait_s: float = 60.0
    """The first placement waits this long for pinned machines."""
    planned: tuple[PlannedPipeline, ...] = ()
    """Pipelines as a plan has them, instead of pins."""
    work: ServeSettings | None = None
    """How a pipeline serves whose stages are those of its plan."""
    most_pipelines: int = 1
    """As long as machines that have nothing to do suffice, they make another, up to so many."""
    horizon_s: float = 600.0
    """A better plan must have paid for its disturbance by then."""
    mend_s: float = 60.0
    """What mends a loss is judged by the tokens until then: streams wait, and better plans may follow."""
    planning: PlanOptions = field(default_factory=PlanOptions)
    """How changes are weighed."""
    load_stall_s: float = 60.0
    """A load that gets no further for this long has failed."""
    longest_load_s: float = 7200.0
    """And so has one that takes longer than this, however steadily it trickles."""


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a plan for one pipeline is made from."""

    pool: Pool
    """Machines that the pipeline may use, with the memory that others leave it."""
    current_pool: Pool
    """As `pool`, with the machines of `current` whatever their standing."""
    fetch_bytes_per_s: Callable[[NodeId], float]
    """How fast a machine gets weights that it does not have."""
    current: Pipeline | None = None
    """What works now."""
    running: int = 0
    """Requests at work on `current`."""
    held: Pipeline | None = None
    """Where nothing works now: what did last, whose weights are still on their machines."""
    beside: tuple[Pipeline, ...] = ()
    """What other pipelines of the job work on, or load."""
    at_work: frozenset[NodeId] = frozenset()
    """Machines that have something to do for other pipelines of any job."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of planning."""

    plan: Plan | None
    """None: nothing can be done, or nothing that would be worth it."""
    trouble: str = ""
    """Why nothing can be done, in one sentence."""
    pin_trouble: str = ""
    """Why not even the pins whose machines are here can be kept."""


class Planning(Protocol):
    """Decides which plan a pipeline goes to, for one kind of work. Quick and pure."""

    def mend(self, job: "Job", now: Circumstances) -> Outcome:
        """What to do where nothing works, or where a machine that works must go."""

    def improve(self, job: "Job", now: Circumstances, proposals: Sequence[Plan]) -> Outcome:
        """What would be so much better than `now.current` that it is worth the disturbance, if anything."""

    def pinned(self, job: "Job", pool: Pool) -> tuple[Pinned, ...]:
        """The operator's pins, as far as they can be kept now."""

    def forecasting(self, job: "Job", pool: Pool) -> PlanOptions:
        """By what everything is forecast on the pool as it is."""

    def search_options(self, job: "Job", pool: Pool) -> PlanOptions:
        """The same, as `Job.search` is told."""


@dataclass(frozen=True, slots=True)
class Job:
    name: str
    model: JobModel
    planning: Planning
    """Whatever decides quickly where a pipeline goes."""
    search: SearchPlan | None = None
    """May take its time: it looks for something better while that works."""
    pipelines: int = 1
    """That are to work at once, each on machines of its own, whatever becomes of them."""
    options: JobOptions = field(default_factory=JobOptions)

    @property
    def most_pipelines(self) -> int:
        return max(self.pipelines, self.options.most_pipelines)

    def for_pipeline(self, number: int) -> "Job":
        """As one of its pipelines is to see it: with the pins that are its own."""
        options = self.options
        if options.planned:
            one = options.planned[number] if number < len(options.planned) else PlannedPipeline(())
            return replace(self, options=replace(options, pins=one.pins, work=one.work))
        return self if number == 0 else replace(self, options=replace(options, pins=()))
