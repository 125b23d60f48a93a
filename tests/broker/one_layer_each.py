"""A planner of another kind of work than serving, for the tests of pools that do both."""

from collections.abc import Sequence

from muster.broker.pipelines.job import Circumstances, Job, Outcome
from muster.plan.quick.tables import PlanOptions
from muster.plan.replan.pinned import Pinned
from muster.plan.train.memory import placed_bytes
from muster.spec.plan import Pipeline, Plan, Stage, TrainSettings
from muster.spec.pool import Pool


class OneLayerEach:
    """Another kind of work: a layer on each of the first machines that are here, and never anything better."""

    def mend(self, job: Job, now: Circumstances) -> Outcome:
        layers, work = job.model.shape.num_layers, TrainSettings(num_microbatches=4)
        whole = Pipeline(tuple(Stage("", n, n + 1) for n in range(layers)), work)
        need = max(placed_bytes(job.model.shape, whole, n) for n in range(layers))
        able = [node for node in now.pool.nodes if node.device.memory_bytes >= need]
        if len(able) < layers:
            return Outcome(None, f"{len(able)} of {layers} machines are here; join more.")
        stages = tuple(Stage(node.id, n, n + 1) for n, node in enumerate(able[:layers]))
        return Outcome(Plan(job.name, (Pipeline(stages, work),)))

    def improve(self, job: Job, now: Circumstances, proposals: Sequence[Plan]) -> Outcome:
        return Outcome(None)

    def pinned(self, job: Job, pool: Pool) -> tuple[Pinned, ...]:
        return ()

    def forecasting(self, job: Job, pool: Pool) -> PlanOptions:
        return job.options.planning

    def search_options(self, job: Job, pool: Pool) -> PlanOptions:
        return job.options.planning
