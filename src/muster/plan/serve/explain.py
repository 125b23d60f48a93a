"""A serving plan in words: what it is, and why another one was not taken."""

from muster.plan.found import LOOSE
from muster.plan.serve.options import Objective
from muster.plan.words import layers_in_words
from muster.spec.forecast import ServeForecast
from muster.spec.plan import Pipeline, Plan
from muster.spec.pool import Pool

_MAX_LISTED = 4


def explain(pool: Pool, plan: Plan, forecast: ServeForecast, objective: Objective, score: float, bound: float) -> str:
    """A few sentences for `--explain`."""
    count = len(plan.pipelines)
    names = {node.id: node.name for node in pool.nodes}
    lines = [f"{count} {'pipeline' if count == 1 else 'pipelines'}:"]
    lines += [f"{_chain(names, one)}." for one in plan.pipelines[:_MAX_LISTED]]
    if count > _MAX_LISTED:
        lines.append(f"And {count - _MAX_LISTED} more.")
    if plan.standbys:
        some = ", ".join(names[node] for node in plan.standbys[:_MAX_LISTED])
        more = f" and {len(plan.standbys) - _MAX_LISTED} more" if len(plan.standbys) > _MAX_LISTED else ""
        verb = "stays" if len(plan.standbys) == 1 else "stay"
        lines.append(f"{some}{more} {verb} idle: no better plan with them was found.")
    low, high = sorted((score, bound))
    proven = f"; no plan does better than {_figure(objective, bound)}" if high <= (1 + LOOSE) * low else ""
    lines.append(f"{_figure(objective, score)}{proven}.")
    return " ".join(lines)


def _figure(objective: Objective, value: float) -> str:
    if objective == "latency":
        return f"{value:.3g} s for one request"
    if objective == "slo" and value <= 1 + 1e-6:
        return f"{value:.1%} of requests in time"
    if objective == "cost":
        return f"{value:.4g} tokens/s per dollar an hour"
    return f"{value:.4g} tokens/s"


def _chain(names: dict[str, str], pipeline: Pipeline) -> str:
    parts = [
        f"{names[one.node]}{f' x{len(one.devices)}' if len(one.devices) > 1 else ''} "
        f"{layers_in_words(one.first, one.last)}"
        for one in pipeline.stages
    ]
    return " → ".join(parts)


def why_not(
    pool: Pool, plan: Plan, forecast: ServeForecast, other: Plan, its: ServeForecast, objective: Objective
) -> str:
    """One sentence on `other`, beside the plan that was chosen."""
    what = _named(pool, other)
    if objective == "latency":
        return f"{what}: a request takes {its.request_s:.3g} s instead of {forecast.request_s:.3g} s."
    if objective == "slo" and its.attainment is not None and forecast.attainment is not None:
        if abs(its.attainment - forecast.attainment) < 5e-4:
            return f"{what}: as many in time, on {_machines(other)} machines instead of {_machines(plan)}."
        return f"{what}: {its.attainment:.1%} of requests in time instead of {forecast.attainment:.1%}."
    ratio = its.capacity_tokens_per_s / forecast.capacity_tokens_per_s - 1
    if objective == "cost":
        cost, mine = _price(pool, other), _price(pool, plan)
        return (
            f"{what}: {its.capacity_tokens_per_s:.4g} tokens/s for ${cost:.2f} an hour instead of "
            f"{forecast.capacity_tokens_per_s:.4g} for ${mine:.2f}."
        )
    if abs(ratio) < 5e-4:
        fewer = f", with {_stages(other)} stages instead of {_stages(plan)}" if _stages(other) != _stages(plan) else ""
        return f"{what}: as fast{fewer}."
    return f"{what}: {its.capacity_tokens_per_s:.4g} tokens/s, {abs(ratio):.1%} {'less' if ratio < 0 else 'more'}."


def _named(pool: Pool, plan: Plan) -> str:
    """One short pipeline by its machines, anything larger by its counts."""
    if len(plan.pipelines) > 1 or _stages(plan) > _MAX_LISTED:
        return layout_in_words(plan)
    return _chain({node.id: node.name for node in pool.nodes}, plan.only_pipeline)


def layout_in_words(plan: Plan) -> str:
    count, machines = len(plan.pipelines), _machines(plan)
    stages = sorted({len(pipeline.stages) for pipeline in plan.pipelines})
    span = f"{stages[0]}" if len(stages) == 1 else f"{stages[0]} to {stages[-1]}"
    return (
        f"{count} {'pipeline' if count == 1 else 'pipelines'} of {span} "
        f"{'stage' if span == '1' else 'stages'} on {machines} {'machine' if machines == 1 else 'machines'}"
    )


def _machines(plan: Plan) -> int:
    return len({stage.node for pipeline in plan.pipelines for stage in pipeline.stages})


def _stages(plan: Plan) -> int:
    return sum(len(pipeline.stages) for pipeline in plan.pipelines)


def _price(pool: Pool, plan: Plan) -> float:
    used = {stage.node for pipeline in plan.pipelines for stage in pipeline.stages}
    return sum(node.price_per_hour or 0.0 for node in pool.nodes if node.id in used)
