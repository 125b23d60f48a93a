"""Where the pipelines of a training run go: cut alike, each on machines of its own. Pure.

The first pipeline decides how many stages there are and where the layers are cut, by the best layout of all machines
that are here; the others fill the same cuts. While one is lost the others train on, and whoever runs the training
brings the new one up to date.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from muster.broker.pipelines.job import Circumstances, Job, JobModel, JobOptions, Outcome
from muster.cost.measured import constants_of
from muster.errors import PoolUnavailable
from muster.plan.quick.tables import PlanOptions
from muster.plan.replan.pinned import Pinned
from muster.plan.train.quick import WantedLayout, quick_training_plan
from muster.spec.plan import Pipeline, Plan, TrainSettings
from muster.spec.pool import Pool


def train_job(
    name: str, model: JobModel, settings: TrainSettings, options: JobOptions = JobOptions(), stages: int = 0
) -> Job:
    """`settings` are those of a pipeline that makes a whole step alone; `stages` 0 leaves that to the planner."""
    return Job(name, model, TrainPlanning(settings, stages, options.most_pipelines), options=options)


@dataclass(frozen=True, slots=True)
class TrainPlanning:
    settings: TrainSettings
    stages: int = 0
    """Of each pipeline; 0 leaves it to the planner."""
    most_pipelines: int = 1

    def mend(self, job: Job, now: Circumstances) -> Outcome:
        cuts = _cuts(now.beside[0]) if now.beside else ()
        wanted = WantedLayout(self.stages, cuts, 1 if cuts else self.most_pipelines)
        try:
            plan = quick_training_plan(
                job.model.shape, now.pool, self.settings.workload, constants_of(now.pool), wanted
            )
        except PoolUnavailable as error:
            return Outcome(None, str(error))
        return Outcome(self._first_of(plan))

    def _first_of(self, plan: Plan) -> Plan:
        """One pipeline at a time is placed. It must have room for a whole step: the others may leave it alone."""
        first = replace(plan.pipelines[0], work=self.settings)
        return replace(plan, pipelines=(first,), standbys=())

    def improve(self, job: Job, now: Circumstances, proposals: Sequence[Plan]) -> Outcome:
        """What trains stays where it is: to move weights and optimizer costs more than most layouts bring."""
        return Outcome(None)

    def pinned(self, job: Job, pool: Pool) -> tuple[Pinned, ...]:
        return ()

    def forecasting(self, job: Job, pool: Pool) -> PlanOptions:
        return replace(job.options.planning, workspace=job.model.workspace, constants=constants_of(pool))

    def search_options(self, job: Job, pool: Pool) -> PlanOptions:
        return self.forecasting(job, pool)


def _cuts(pipeline: Pipeline) -> tuple[int, ...]:
    return (0, *(stage.last for stage in pipeline.stages))
