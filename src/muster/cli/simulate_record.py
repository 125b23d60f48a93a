"""A simulated run as JSON, beside the forecast and the same run without its faults. Knows no terminal."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from muster.cli.plan_record import finite, forecast_record
from muster.cli.question import Question
from muster.sim.serve_run import ServeRun
from muster.spec.forecast import ServeForecast

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
_LEFT_OUT = ("requests", "spans")
"""One entry for each request or bar: too much for one object."""


@dataclass(frozen=True, slots=True)
class Simulated:
    forecast: ServeForecast
    run: ServeRun
    undisturbed: ServeRun | None
    """The same without faults; None where there were none."""


def record(question: Question, faults: Sequence[str], made: Simulated) -> dict[str, Any]:
    whole = {
        "model": question.shape.name,
        "pool": question.pool.name,
        "workload": asdict(question.workload),
        "seed": question.seed,
        "faults": list(faults),
        "run": run_record(made.run),
        "undisturbed": None if made.undisturbed is None else run_record(made.undisturbed),
        "forecast": forecast_record(made.forecast),
    }
    told: dict[str, Any] = finite(whole)
    return told


def run_record(run: ServeRun) -> dict[str, Any]:
    said = asdict(replace(run, requests=(), spans=()))
    for key in _LEFT_OUT:
        del said[key]
    said["time_to_first_token_s"] = {"mean": run.time_to_first_token_s, **quantiles(run.first_token_quantile)}
    said["request_s"] = {"mean": run.request_s, **quantiles(run.request_quantile)}
    return said


def quantiles(of: Callable[[float], float]) -> dict[str, float]:
    return {name: of(share) for name, share in QUANTILES.items()}
