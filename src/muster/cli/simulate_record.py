"""A simulated run as JSON, beside the forecast and the same run without its faults. Knows no terminal."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from muster.cli.plan_record import finite, forecast_record
from muster.cli.planning import Question
from muster.sim.serve.result import ServeRun
from muster.sim.train.simulate import TrainRun
from muster.spec.forecast import ServeForecast, TrainForecast

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Simulated:
    forecast: ServeForecast | TrainForecast
    run: ServeRun | TrainRun
    undisturbed: ServeRun | TrainRun | None
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


def run_record(run: ServeRun | TrainRun) -> dict[str, Any]:
    if isinstance(run, TrainRun):
        return _without(asdict(replace(run, spans=())), "spans")
    # One entry for each request or bar would be too much for one object.
    said = _without(asdict(replace(run, requests=(), spans=())), "requests", "spans")
    said["time_to_first_token_s"] = {"mean": run.time_to_first_token_s, **quantiles(run.first_token_quantile)}
    said["request_s"] = {"mean": run.request_s, **quantiles(run.request_quantile)}
    return said


def _without(said: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in said.items() if key not in keys}


def quantiles(of: Callable[[float], float]) -> dict[str, float]:
    return {name: of(share) for name, share in QUANTILES.items()}
