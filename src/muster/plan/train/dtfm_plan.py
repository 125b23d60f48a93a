"""A plan by the objective of DT-FM, to the letter: communication only, equal stages, every machine used once.

Without a workload and with GPT3-XL on 64 machines the job is the published one (`jobs.PUBLISHED_JOB`), so that costs
are those of the paper's equations on its own constants. Otherwise the two sizes follow from shape and workload.

Knows nothing of how long computing takes: the objective has no such term. Memory is checked all the same.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

from muster.errors import DoesNotFit, InvalidRequest
from muster.plan.train.dtfm.jobs import PUBLISHED_JOB, PUBLISHED_SEQUENCES, equal_cuts, job_of
from muster.plan.train.dtfm.objective import MAX_STAGES
from muster.plan.train.dtfm.problem import TrainJob, TrainProblem
from muster.plan.train.dtfm.search import FoundPlacement, SearchOptions, search
from muster.plan.train.memory import in_flight, stage_memory
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Plan, Stage, TrainSettings
from muster.spec.pool import Node, Pool
from muster.spec.workload import TrainWorkload

MORE = 3
"""So many times as many rounds are walked for the counts that look best."""
PUBLISHED_MODEL = "gpt3-xl"
_PUBLISHED_WORKLOAD = TrainWorkload(sequences=PUBLISHED_SEQUENCES)


@dataclass(frozen=True, slots=True)
class DtfmFound:
    """The plan, and its cost by equations 1 to 4 of DT-FM in seconds per step."""

    plan: Plan
    workload: TrainWorkload
    """What the job is of: what was asked for, or what the published job comes to."""
    job: TrainJob
    cost_s: float
    data_parallel_s: float
    pipeline_s: float
    placement: tuple[tuple[str, ...], ...]
    """Names of machines, [replica][stage]."""
    bound_s: float
    """No placement of this job on this pool costs less."""
    gap: float
    finished: bool
    """False if `out_of_time` cut the search short."""


def dtfm_plan(
    shape: ModelShape,
    pool: Pool,
    workload: TrainWorkload | None = None,
    *,
    replicas: int | None = None,
    stages: int | None = None,
    seed: int = 0,
    options: SearchOptions = SearchOptions(),
    out_of_time: Callable[[], bool] = lambda: False,
) -> DtfmFound:
    """The cheapest placement found, over all ways to write the number of machines as replicas x stages that fit.

    Raises `InvalidRequest` if the counts do not make up the pool, `DoesNotFit` if no equal cut fits into memory.
    """
    if _is_published(shape, pool, workload) and (replicas or 8) == 8 and (stages or 8) == 8:
        return _placed(shape, pool, _PUBLISHED_WORKLOAD, PUBLISHED_JOB, seed, options, out_of_time)
    workload = workload or TrainWorkload()
    jobs = [job_of(shape, workload, *counts) for counts in _fitting(shape, pool, workload, replicas, stages)]
    if len(jobs) > 1:
        found = [_placed(shape, pool, workload, job, seed, options, out_of_time) for job in jobs]
        best = min(found, key=lambda one: one.cost_s)
        if best.gap <= 0 or out_of_time():
            return best
        jobs = [best.job]
    # The same walks as above and more of them, so that the seed hardly matters.
    patient = replace(options, rounds=MORE * options.rounds, patience=MORE * options.patience)
    return _placed(shape, pool, workload, jobs[0], seed, patient, out_of_time)


def _is_published(shape: ModelShape, pool: Pool, workload: TrainWorkload | None) -> bool:
    wanted = PUBLISHED_JOB.replicas * PUBLISHED_JOB.stages
    return workload is None and shape.name == PUBLISHED_MODEL and len(pool.nodes) == wanted


def _fitting(
    shape: ModelShape, pool: Pool, workload: TrainWorkload, replicas: int | None, stages: int | None
) -> list[tuple[int, int]]:
    """Replicas and stages, the most replicas first."""
    count = len(pool.nodes)
    tallest = min(count, shape.num_layers, MAX_STAGES)
    able = [(count // height, height) for height in range(1, tallest + 1) if count % height == 0]
    wanted = [(r, s) for r, s in able if replicas in (None, r) and stages in (None, s) and r <= workload.sequences]
    if not wanted:
        asked = " x ".join(str(number or "any number of") for number in (replicas, stages))
        raise InvalidRequest(
            f"{asked} replicas x stages cannot be made of {count} machines for {shape.num_layers} layers and "
            f"{workload.sequences} sequences; DT-FM's objective uses every machine once in at most {MAX_STAGES} "
            "stages, so change the counts or the fleet, or use another objective."
        )
    lacking = {counts: _lacking(shape, pool, workload, *counts) for counts in wanted}
    if min(lacking.values()) > 0:
        raise DoesNotFit(
            f"Training {shape.name} in equal stages lacks {min(lacking.values()) / 2**30:.1f} GiB on the smallest "
            "machine; recompute activations, shorten the microbatch, leave the smallest machines out, or use an "
            "objective that cuts uneven stages."
        )
    return [counts for counts, short in lacking.items() if short <= 0]


def _lacking(shape: ModelShape, pool: Pool, workload: TrainWorkload, replicas: int, stages: int) -> int:
    """Bytes by which the neediest equal stage exceeds the smallest device."""
    cuts = equal_cuts(shape.num_layers, stages)
    microbatches = _microbatches(workload, replicas)
    return max(
        stage_memory(shape, workload, layers, in_flight(workload, stage, stages, microbatches), node.device_count)
        - node.device.memory_bytes
        for stage, layers in enumerate(pairwise(cuts))
        for node in _kinds_of_machine(pool)
    )


def _kinds_of_machine(pool: Pool) -> list[Node]:
    return list({(node.device.memory_bytes, node.device_count): node for node in pool.nodes}.values())


def _microbatches(workload: TrainWorkload, replicas: int) -> int:
    return max(1, -(-workload.sequences // (replicas * workload.microbatch)))


def _placed(
    shape: ModelShape,
    pool: Pool,
    workload: TrainWorkload,
    job: TrainJob,
    seed: int,
    options: SearchOptions,
    out_of_time: Callable[[], bool],
) -> DtfmFound:
    found = search(TrainProblem.of_pool(pool, job), seed, options, out_of_time)
    cost = found.placement.cost
    grid = found.placement.grid
    return DtfmFound(
        plan=_plan(shape, pool, workload, found),
        workload=workload,
        job=job,
        cost_s=cost.total_s,
        data_parallel_s=cost.data_parallel_s,
        pipeline_s=cost.pipeline_s,
        placement=tuple(tuple(pool.nodes[machine].name for machine in row) for row in grid),
        bound_s=found.bound_s,
        gap=found.gap,
        finished=found.finished,
    )


def _plan(shape: ModelShape, pool: Pool, workload: TrainWorkload, found: FoundPlacement) -> Plan:
    grid, cost = found.placement.grid, found.placement.cost
    layers = list(pairwise(equal_cuts(shape.num_layers, len(grid[0]))))
    pipelines = []
    work = TrainSettings(_microbatches(workload, len(grid)), workload.microbatch)
    for row in grid:
        nodes = [pool.nodes[machine] for machine in row]
        stages = (
            Stage(node.id, first, last, tuple(range(node.device_count)))
            for node, (first, last) in zip(nodes, layers, strict=True)
        )
        pipelines.append(Pipeline(tuple(stages), work))
    return Plan(
        model=shape.name,
        pipelines=tuple(pipelines),
        step_seconds=cost.total_s,
        explanation=(
            f"{len(grid)} pipelines of {len(layers)} equal stages by DT-FM's objective: {cost.data_parallel_s:.3f} s "
            f"to exchange gradients and {cost.pipeline_s:.3f} s along the pipeline, computing not counted; "
            f"at most {100 * found.gap:.1f}% above the optimum."
        ),
    )
