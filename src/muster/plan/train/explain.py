"""A training plan in words: why this one, why not another, or by how much it does not fit."""

from muster.errors import DoesNotFit, InvalidRequest, PoolUnavailable
from muster.plan.train.fleet import Fleet
from muster.plan.words import bytes_in_words
from muster.spec.forecast import TrainForecast
from muster.spec.plan import Plan
from muster.spec.pool import Pool
from muster.spec.workload import TrainWorkload


def check(pool: Pool, workload: TrainWorkload) -> None:
    """Raises `PoolUnavailable` without machines, `InvalidRequest` on counts below one."""
    if not pool.nodes:
        raise PoolUnavailable("No machine is in the pool, so nothing can train; let machines join or name a fleet.")
    for name in ("sequences", "length", "microbatch"):
        if getattr(workload, name) < 1:
            raise InvalidRequest(f"{name} is {getattr(workload, name)}; give at least 1.", name)


def counts(plan: Plan) -> str:
    replicas, stages = len(plan.pipelines), len(plan.first_replica.stages)
    return f"{replicas} replica{'s' * (replicas != 1)} of {stages} stage{'s' * (stages != 1)}"


def explained(plan: Plan, forecast: TrainForecast, pool: Pool, bound_s: float) -> str:
    """A few sentences for `--explain`."""
    stages = plan.first_replica.stages
    cuts = [stage.first for stage in stages] + [stages[-1].last]
    shares = sorted({pipeline.train.num_microbatches for pipeline in plan.pipelines})
    dealt = f"{shares[0]}" if len(shares) == 1 else f"{shares[0]} to {shares[-1]}, by speed"
    sentences = [
        f"{counts(plan).capitalize()}, cut at layers {', '.join(map(str, cuts))}.",
        f"Microbatches per replica: {dealt}.",
        f"A step takes {forecast.step_s:.2f} s, {forecast.exchange_s:.2f} s of it after the pipelines; "
        f"no plan can take less than {bound_s:.2f} s.",
    ]
    if plan.codecs:
        sentences.append(f"{len(plan.codecs)} directions of links are compressed, as little as the step allows.")
    if plan.standbys:
        sentences.append(f"{len(plan.standbys)} of {len(pool.nodes)} machines on standby: they would not help.")
    return " ".join(sentences)


def why_not(plan: Plan, forecast: TrainForecast, best: TrainForecast) -> str:
    """Of a plan that was not taken, in one sentence."""
    longer = forecast.step_s / best.step_s - 1
    says = f"{counts(plan).capitalize()} would take {forecast.step_s:.2f} s a step, {longer:.0%} more"
    return f"{says}: {_cause(forecast, best)}."


def _cause(forecast: TrainForecast, best: TrainForecast) -> str:
    exchange_s, pipeline_s = forecast.exchange_s - best.exchange_s, forecast.pipeline_s - best.pipeline_s
    if exchange_s > max(pipeline_s, 0.0):
        return f"{exchange_s:.2f} s more to exchange gradients"
    if pipeline_s > 0:
        return f"{pipeline_s:.2f} s more until the last microbatch is back"
    return "as good within rounding"


def does_not_fit(fleet: Fleet) -> DoesNotFit:
    """Says how far the model is from fitting when each of its layers has a machine of its own at best."""
    need = [fleet.need_bytes(0, (layer, layer + 1), 1) - int(fleet.caps.max()) for layer in range(fleet.num_layers)]
    whole = fleet.need_bytes(0, (0, fleet.num_layers), 1)
    lent = sum(node.device.memory_bytes * node.device_count for node in fleet.pool.nodes)
    if max(need) > 0:
        remedy = f"one layer alone lacks {bytes_in_words(max(need))} on the largest device; shorten the microbatch"
    else:
        more = bytes_in_words(max(whole - lent, whole / 10))
        remedy = f"add machines that lend {more} together, or shorten the microbatch"
    return DoesNotFit(
        f"Training {fleet.shape.name} needs {bytes_in_words(whole)} with one microbatch in flight, more when split; "
        f"the pool lends {bytes_in_words(lent)}: {remedy}, recompute activations, or take an optimizer with less state."
    )
