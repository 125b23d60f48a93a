"""Which plan a pipeline that serves goes to: tokens until a horizon, weighed against what a change disturbs. Pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

from muster.broker.pipelines.job import Circumstances, Job, JobModel, JobOptions, Outcome, SearchPlan
from muster.cost.measured import constants_of
from muster.errors import PoolUnavailable
from muster.plan.offload.live import offloading
from muster.plan.quick.planner import Planner, place
from muster.plan.quick.tables import PlanOptions
from muster.plan.replan.change import Change, Situation, tokens_per_s, worth
from muster.plan.replan.choose import can_be, improved, mended
from muster.plan.replan.compact import compact
from muster.plan.replan.pinned import Pinned, around, honours, is_meant, pinned
from muster.plan.replan.sharing import sharing
from muster.spec.codec import RAW
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Plan, Stage
from muster.spec.pool import Pool

MAX_PINS_TO_CHOOSE_FROM = 4
"""Of so many pins every choice is tried where not all can be kept; of more, those without one of them."""
Chooser = Callable[[Planner, ModelShape, Pool, Situation, PlanOptions, float], Change]
"""Planner, model, pool, situation, options and seconds until the horizon -> the change it would make."""


def serve_job(
    model: JobModel,
    planner: Planner = place,
    search: SearchPlan | None = None,
    options: JobOptions = JobOptions(),
) -> Job:
    """Serve `model` under its own name. `planner` must be quick; `search` may take its time."""
    several = options.most_pipelines > 1
    shared = offloading(sharing(planner))
    planning = ServePlanning(compact(shared) if several else shared)
    return Job(model.shape.name, model, planning, search, max(1, len(options.planned)), options)


@dataclass(frozen=True, slots=True)
class ServePlanning:
    planner: Planner = place

    def mend(self, job: Job, now: Circumstances) -> Outcome:
        change, outcome = self._weighed(job, now, mended, job.options.mend_s)
        return outcome if change is None else replace(outcome, plan=self._as_planned(job, now, change.plan))

    def improve(self, job: Job, now: Circumstances, proposals: Sequence[Plan]) -> Outcome:
        if job.options.work is not None and now.current is not None and _is_planned(job, now, now.current):
            return Outcome(None)
        horizon_s = job.options.horizon_s
        change, outcome = self._weighed(job, now, partial(improved, proposals=proposals), horizon_s)
        if change is None or not (worth(change, horizon_s) or self._obeys(job, now, change.plan)):
            return outcome
        return replace(outcome, plan=self._as_planned(job, now, change.plan))

    def _as_planned(self, job: Job, now: Circumstances, plan: Plan) -> Plan:
        """With the operator's plan for how it serves, where its stages are that plan's and memory allows it."""
        work, pipeline = job.options.work, plan.only_pipeline
        if work is None or not _is_planned(job, now, pipeline):
            return plan
        pages = min(work.num_pages, pipeline.serve.num_pages)
        fields = ("num_microbatches", "batch", "prefill_tokens", "max_microbatches")
        wanted = {name: getattr(work, name) for name in fields}
        wanted["num_microbatches"] = max(len(pipeline.stages), work.num_microbatches)
        made = pipeline.with_work(num_pages=pages, swap_pages=min(work.swap_pages, pages // 2), **wanted)
        planned = replace(plan, pipelines=(made,))
        return planned if can_be(planned, job.model.shape, now.pool, self.forecasting(job, now.pool)) else plan

    def pinned(self, job: Job, pool: Pool) -> tuple[Pinned, ...]:
        return pinned(job.options.pins, job.model.shape, pool, self.forecasting(job, pool))

    def forecasting(self, job: Job, pool: Pool) -> PlanOptions:
        """With the constants that `muster plan` takes for this pool; with codecs only where they can be judged."""
        planning = job.options.planning
        codecs = planning.codecs if job.model.calibration else (RAW,)
        return replace(planning, workspace=job.model.workspace, constants=constants_of(pool), codecs=codecs)

    def search_options(self, job: Job, pool: Pool) -> PlanOptions:
        """With the layers of pinned machines fixed."""
        held = self.pinned(job, pool)
        return replace(self.forecasting(job, pool), fixed=tuple(one.stage for one in held if one.stage is not None))

    def _weighed(
        self, job: Job, now: Circumstances, choose: Chooser, horizon_s: float
    ) -> tuple[Change | None, Outcome]:
        """The change that `choose` would make, and what is to be said of it."""
        options = self.search_options(job, now.pool)
        trouble = pin_trouble = ""
        for some in _fewer_and_fewer(options.fixed):
            changes = []
            for fixed in some:
                try:
                    changes.append(self._change(job, now, choose, replace(options, fixed=fixed), horizon_s))
                except PoolUnavailable as error:
                    trouble = str(error)
                    pin_trouble = pin_trouble or (trouble if options.fixed else "")
            if changes:
                return max(changes, key=lambda change: change.net_tokens(horizon_s)), Outcome(None, "", pin_trouble)
        return None, Outcome(None, trouble, pin_trouble)

    def _change(self, job: Job, now: Circumstances, choose: Chooser, options: PlanOptions, horizon_s: float) -> Change:
        planner = around(self.planner) if options.fixed else self.planner
        return choose(planner, job.model.shape, now.pool, situation(job, now, options), options, horizon_s)

    def _obeys(self, job: Job, now: Circumstances, plan: Plan) -> bool:
        """Whether pins are kept by this plan and not by what serves: reason enough to change."""
        fixed = self.search_options(job, now.pool).fixed
        current = now.current is not None and honours(now.current, fixed)
        return honours(plan.only_pipeline, fixed) and not current


def situation(job: Job, now: Circumstances, options: PlanOptions) -> Situation:
    """What serves, and what a change would disturb."""
    if now.current is None:
        return Situation(None, holders=now.held, fetch_bytes_per_s=now.fetch_bytes_per_s)
    cached_tokens = min(now.running * options.context, now.current.work.cache_tokens)
    speed = tokens_per_s(now.current, job.model.shape, now.current_pool, options)
    return Situation(now.current, speed, cached_tokens=cached_tokens, fetch_bytes_per_s=now.fetch_bytes_per_s)


def _is_planned(job: Job, now: Circumstances, pipeline: Pipeline) -> bool:
    """Whether its stages are all of the plan's."""
    names = {node.id: node for node in now.current_pool.nodes}
    stages = [(stage, names.get(stage.node)) for stage in pipeline.stages]
    pins = job.options.pins
    return len(stages) == len(pins) and all(
        any(
            (pin.first, pin.last, len(pin.devices)) == (stage.first, stage.last, stage.degree)
            and node
            and is_meant(pin, node)
            for pin in pins
        )
        for stage, node in stages
    )


def _fewer_and_fewer(fixed: tuple[Stage, ...]) -> Iterator[Iterable[tuple[Stage, ...]]]:
    """All pins, then all but one, all but two, and none at last: no pin is worth that nobody is served."""
    most = len(fixed) if len(fixed) <= MAX_PINS_TO_CHOOSE_FROM else 1
    yield [fixed]
    for dropped in range(1, most + 1):
        yield combinations(fixed, len(fixed) - dropped)
    if most < len(fixed):
        yield [()]
