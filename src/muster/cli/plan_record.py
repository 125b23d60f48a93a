"""An answer as JSON: the plan file, what it will do, what it costs. Knows no terminal.

The keys are described in docs/planner.md and do not change their meaning.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import isfinite
from typing import Any

import msgspec

from muster.cli.planning import Answer, Question
from muster.cost.profit import bases, break_even_tokens_per_s, dollars_per_hour, dollars_per_million, sales, watts
from muster.plan.found import Rejected
from muster.plan.runnable import beyond
from muster.spec.forecast import ServeForecast, StageForecast, TrainForecast
from muster.spec.plan import Plan
from muster.spec.plan_file import PlanFile, to_record
from muster.spec.pool import Pool


@dataclass(frozen=True, slots=True)
class OneMore:
    """What another machine of a kind would change. Figures of the plan for the pool that has it."""

    device: str
    devices: int
    region: str
    like: str
    """The name of a machine of the kind."""
    score: float
    plan_uses_it: bool


def record(question: Question, answer: Answer, one_more: Sequence[OneMore] | None = None) -> dict[str, Any]:
    """`one_more` None leaves out what only `--explain` works out."""
    made = to_record(plan_file(question, answer.plan))
    made["forecast"] = forecast_record(answer.forecast)
    made["beyond_runtime"] = beyond(answer.plan)
    made["cost"] = cost_record(used_machines(question.pool, answer.plan), answer.forecast)
    made["search"] = {
        "score": answer.score,
        "bound": answer.bound,
        "gap": answer.gap,
        "evaluations": answer.evaluations,
        "finished": answer.finished,
    }
    made["seconds"] = round(answer.seconds, 3)
    if answer.dtfm is not None:
        made |= {key: getattr(answer.dtfm, key) for key in ("cost_s", "data_parallel_s", "pipeline_s", "placement")}
        made["job"] = asdict(answer.dtfm.job)
    if one_more is not None:
        made["explain"] = {
            "rejected": [_rejected(one) for one in answer.rejected[:3]],
            "one_more": [asdict(one) for one in one_more],
            "break_even": break_even(used_machines(question.pool, answer.plan)),
        }
    whole: dict[str, Any] = finite(made)
    return whole


def finite(value: Any) -> Any:
    """JSON has no infinity: what grows without end, or is not known, is null."""
    if isinstance(value, float) and not isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    return [finite(entry) for entry in value] if isinstance(value, list | tuple) else value


def plan_file(question: Question, plan: Plan) -> PlanFile:
    return PlanFile(question.objective, question.seed, question.shape, question.workload, question.pool, plan)


def used_machines(pool: Pool, plan: Plan) -> Pool:
    """The pool without the machines that the plan leaves idle."""
    used = {node for pipeline in plan.pipelines for node in pipeline.nodes()}
    return replace(pool, nodes=tuple(node for node in pool.nodes if node.id in used))


def forecast_record(forecast: ServeForecast | TrainForecast) -> dict[str, Any]:
    stages = [{**asdict(stage), **_derived(stage)} for stage in forecast.stages]
    return {**asdict(forecast), "stages": stages}


def _derived(stage: StageForecast) -> dict[str, int]:
    return {"used_bytes": stage.used_bytes, "headroom_bytes": stage.headroom_bytes}


def cost_record(used: Pool, forecast: ServeForecast | TrainForecast) -> dict[str, float | None]:
    """Of the machines in use; None for what is not known."""
    per_hour, power = dollars_per_hour(used), watts(used)
    rate = forecast.tokens_per_s
    known_watts = all(node.watts is not None for node in used.nodes)
    return {
        "dollars_per_hour": per_hour,
        "dollars_per_million_tokens": dollars_per_million(per_hour, rate) if per_hour is not None and rate else None,
        "watts": power if known_watts else None,
        "tokens_per_joule": rate / power if known_watts and power and rate else None,
    }


def break_even(used: Pool) -> list[dict[str, Any]]:
    """For every way to count the cost of the machines: tokens per second at which they pay, by price of tokens."""
    prices = sales(used)
    return [
        {
            **asdict(basis),
            "tokens_per_s": {sale.name: break_even_tokens_per_s(basis.per_hour, sale.per_million) for sale in prices},
        }
        for basis in bases(used)
    ]


def _rejected(one: Rejected[ServeForecast | TrainForecast]) -> dict[str, Any]:
    return {"why": one.why, "plan": msgspec.to_builtins(one.plan), "forecast": forecast_record(one.forecast)}
