"""Does the planner place serving well: against exhaustive search, symmetric plans, published rings, and the clock?

    python benchmarks/planner_serve.py [--part small example hexgen large deserve size] [--quick] [--json FILE]

    small     30 fleets of three to six devices, drawn at random in three cities, OPT-30B in six lumps of layers: the
              search over every layout, and the evolving search that larger fleets get, against a brute force that
              tries every way to share the devices, every order, every cut and every tensor-parallel degree one by one
              (each with its best batch), without the planner's recursion, classes or bounds
    example   three kinds of plans (benchmarks/asymmetric.py) on HexGen's example of 4 + 2 + 2 GPUs, Llama-2-70B:
              uniform (one degree and one number of stages for all replicas, as most engines have it), symmetric (one
              degree and level layers within a replica; uniform ones too: the stricter yardstick) and any (all that is
              known, unequal stages among it). The planner makes plans of each kind, with the same search effort, for
              one request alone, offline, and for three deadlines, each at 0.8 of the kind's offline rate and at 1.2 of
              what the plans known by then bear. All of a kind are judged at every point, in simulations with other
              arrivals than the planner's own trials: 1,000 Poisson requests. Peak rate: the highest at which some plan
              has 99 % in time, by bisection for each plan; deadlines are multiples of one request alone on the
              quickest plan. Shortest deadline: the least 99th percentile of any plan that can keep up with the rate
              for ever (by the closed form), at shares of the peak rate of `any` at the longest deadline;
              null where no plan keeps up
    hexgen    the same on HexGen's 58 GPUs
    large     the same on the 58 GPUs with Llama-3.1-405B, of which one replica takes half of the fleet or more
    deserve   DeServe's ring at its six latencies: the stage time is calibrated once, on the published row without
              latency; steps in flight, pages, swap and layers are the planner's, the batch is the published one
    size      one search each for 8 to 1,000 devices in ten cities, Llama-3-70B

Throughputs are forecasts in closed form except in `example`, `hexgen` and `large`, where they are simulated. One
process, one thread. `wall_s` depends on what else the machine does; `cpu_s` is the processor time of the same search.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations, permutations, product
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.asymmetric import PART, WHOLE, Effort, compare
from benchmarks.records import Claimed, percent, record_parts, timed
from benchmarks.serving_fleets import (
    CHAT,
    DESERVE_BATCH,
    DESERVE_PAGE,
    DESERVE_ROWS,
    DESERVE_WORK,
    case_study,
    cities,
    deserve,
    lumped,
    small,
)
from muster.cost.named_shapes import named_shape
from muster.cost.pace import TYPICAL, Constants
from muster.errors import MusterError
from muster.plan.serve.cuts import Cut, Item
from muster.plan.serve.fleet import sort_into_classes
from muster.plan.serve.job import make_job
from muster.plan.serve.options import ServeOptions
from muster.plan.serve.replica import Replicas
from muster.plan.serve.search import plan_serving
from muster.sim.serve.ring import Ring
from muster.sim.serve.steady_state import steady_state
from muster.spec.fleets import shipped_fleet
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Plan, ServeSettings, Stage
from muster.spec.pool import Pool
from muster.spec.workload import ServeWorkload

SMALL_FLEETS = 30
SIZES = (8, 16, 32, 64, 128, 256, 512, 1000)


def run_small() -> dict[str, Any]:
    shape, rows = lumped("opt-30b", 6), []
    seed = 0
    while len(rows) < SMALL_FLEETS:
        pool = small(seed)
        seed += 1
        try:
            exact, exact_s = timed(lambda pool=pool: plan_serving(shape, pool, CHAT))
            evolved, evolved_s = timed(
                lambda pool=pool: plan_serving(shape, pool, CHAT, ServeOptions(exhaustive=False))
            )
        except MusterError:
            continue  # the model does not fit, so there is nothing to compare
        best, force_s = timed(lambda pool=pool: brute_force(shape, pool))
        row = {
            "seed": seed - 1,
            "devices": sum(node.device_count for node in pool.nodes),
            "exact": round(exact.forecast.capacity_tokens_per_s / best, 5),
            "evolved": round(evolved.forecast.capacity_tokens_per_s / best, 5),
            "brute_force_tokens_per_s": round(best, 3),
            "exact_s": exact_s,
            "evolved_s": evolved_s,
            "brute_force_s": force_s,
        }
        rows.append(row)
        say(f"small {len(rows)}", row)
    return {
        "worst_exact": min(row["exact"] for row in rows),
        "worst_evolved": min(row["evolved"] for row in rows),
        "within_a_percent_exact": sum(row["exact"] >= 0.99 for row in rows),
        "within_a_percent_evolved": sum(row["evolved"] >= 0.99 for row in rows),
        "fleets": rows,
    }


def brute_force(shape: ModelShape, pool: Pool) -> float:
    """Tokens a second of the best plan there is."""
    fleet = sort_into_classes(pool, apart=[node.id for node in pool.nodes])
    replicas = Replicas(make_job(shape, fleet, CHAT, ServeOptions(), TYPICAL))
    counts = tuple(node.device_count for node in fleet.nodes)
    known: dict[tuple[int, ...], float] = {}
    for taken in product(*(range(count + 1) for count in counts)):
        items = [Item(fleet.class_of[node], devices) for node, devices in enumerate(taken) if devices]
        if not items:
            continue
        found = [
            one.requests_per_s * CHAT.output_tokens
            for order in permutations(items)
            for cuts in every_cut(order, shape.num_layers)
            if (one := replicas.setting(order, cuts)) is not None
        ]
        known[taken] = max(found, default=0.0)
    return share(counts, known)


def every_cut(order: Sequence[Item], layers: int) -> Iterator[tuple[Cut, ...]]:
    """All degrees of all stages on all machines, and all layers of these."""
    ways = [list(_degrees(index, item.devices)) for index, item in enumerate(order)]
    for chosen in product(*ways):
        stages = [stage for machine in chosen for stage in machine]
        for inner in combinations(range(1, layers), len(stages) - 1):
            ends = (0, *inner, layers)
            yield tuple(
                Cut(index, degree, ends[number], ends[number + 1]) for number, (index, degree) in enumerate(stages)
            )


def _degrees(index: int, devices: int) -> Iterator[list[tuple[int, int]]]:
    """Ways to cut up to so many devices into stages, in order."""
    for degree in range(1, devices + 1):
        yield [(index, degree)]
        for rest in _degrees(index, devices - degree):
            yield [(index, degree), *rest]


def share(left: tuple[int, ...], known: dict[tuple[int, ...], float]) -> float:
    """The most that the devices can give, shared out in any way."""
    memory: dict[tuple[int, ...], float] = {}

    def best(left: tuple[int, ...]) -> float:
        if left not in memory:
            parts = [one for one in product(*(range(count + 1) for count in left)) if any(one) and known[one] > 0]
            rests = [(known[one], tuple(a - b for a, b in zip(left, one, strict=True))) for one in parts]
            memory[left] = max((value + best(rest) for value, rest in rests), default=0.0)
        return memory[left]

    return best(left)


def run_unequal(part: str, effort: Effort) -> dict[str, Any]:
    fleet, model = UNEQUAL[part]
    return compare(fleet(), named_shape(model), say, effort)


def run_deserve() -> dict[str, Any]:
    shape = named_shape("llama-3-70b")
    constants = calibrated(shape)
    options = ServeOptions(max_batch=DESERVE_BATCH, page_size=DESERVE_PAGE, max_replicas=1)
    rows = []
    for latency_s, (steps, published) in DESERVE_ROWS.items():
        found = plan_serving(shape, deserve(latency_s), DESERVE_WORK, options, constants)
        (pipeline,) = found.plan.pipelines
        forecast = found.forecast.capacity_tokens_per_s
        rows.append(
            {
                "latency_s": latency_s,
                "tokens_per_s": round(forecast, 1),
                "published_tokens_per_s": published,
                "difference": round(forecast / published - 1, 4),
                "steps_in_flight": pipeline.serve.num_microbatches,
                "published_steps_in_flight": steps,
                "batch": pipeline.serve.batch,
                "pages": pipeline.serve.num_pages,
                "swap_pages": pipeline.serve.swap_pages,
                "layers": [stage.num_layers for stage in pipeline.stages],
                "round_s": round(found.forecast.seconds_per_token, 3),
                "published_round_s": round(steps * DESERVE_BATCH / published, 3),
            }
        )
        say("deserve", rows[-1])
    return {
        "calibrated": repr(constants),
        "worst_difference": max(abs(row["difference"]) for row in rows),
        "shorter_round_in_every_row": all(row["round_s"] < row["published_round_s"] for row in rows),
        "rows": rows,
    }


def calibrated(shape: ModelShape) -> Constants:
    """All rates slower by one factor, so that the published ring steps as it was measured without latency."""
    steps, published = DESERVE_ROWS[0.0]
    pool = deserve(0.0)
    stages = tuple(Stage(node.id, 10 * i, 10 * i + 10) for i, node in enumerate(pool.nodes))
    ring = Plan(shape.name, (Pipeline(stages, ServeSettings(10_000, DESERVE_PAGE, steps, DESERVE_BATCH, 2500)),))

    def slower(factor: float) -> Constants:
        rates = {name: factor * getattr(TYPICAL, name) for name in ("matmul", "attention", "memory")}
        return replace(TYPICAL, **rates)

    low, high = 0.1, 10.0
    for _ in range(50):
        middle = (low * high) ** 0.5
        beat = steady_state(Ring(ring, 0, pool, shape, slower(middle)), DESERVE_WORK, steps * DESERVE_BATCH)
        low, high = (middle, high) if beat.period_s < DESERVE_BATCH / published else (low, middle)
    return slower(high)


def run_size() -> list[dict[str, Any]]:
    rows = []
    for devices in SIZES:
        pool = cities(devices)
        try:
            found, seconds = timed(lambda pool=pool: plan_serving(named_shape("llama-3-70b"), pool, ServeWorkload()))
        except MusterError as error:
            say("size", {"devices": devices, "error": str(error)})
            continue
        rows.append(
            {
                "devices": devices,
                "machines": len(pool.nodes),
                "tokens_per_s": round(found.score, 1),
                "gap": round(found.gap, 4),
                "replicas": len(found.plan.pipelines),
                "designed": found.evaluations,
                **seconds,
            }
        )
        say("size", rows[-1])
    return rows


def draw_sizes(rows: Sequence[dict[str, Any]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    axes.plot([row["devices"] for row in rows], [row["cpu_s"] for row in rows], "o-", color="#2a6f97")
    axes.set(xscale="log", xlabel="devices in ten cities", ylabel="processor seconds to plan")
    axes.set_title("Planning Llama-3-70B, one process", loc="left", fontsize=10)
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)


def say(what: str, figures: dict[str, Any]) -> None:
    print(f"{what}: {figures}", flush=True)


UNEQUAL: dict[str, tuple[Callable[[], Pool], str]] = {
    "example": (case_study, "llama-2-70b"),
    "hexgen": (partial(shipped_fleet, "hexgen-58"), "llama-2-70b"),
    "large": (partial(shipped_fleet, "hexgen-58"), "llama-3.1-405b"),
}
PARTS: dict[str, Callable[[Effort], Any]] = {
    "small": lambda _: run_small(),
    **{part: partial(run_unequal, part) for part in UNEQUAL},
    "deserve": lambda _: run_deserve(),
    "size": lambda _: run_size(),
}


def claimed_of(fleet: str) -> Claimed:
    return lambda found: {
        f"plan.5.deadline-{fleet}": found["best_deadline_over_symmetric"],
        f"plan.5.rate-{fleet}": found["best_rate_over_symmetric"],
    }


CLAIMED: dict[str, Claimed] = {
    "small": lambda found: {
        "plan.3.exact": found["within_a_percent_exact"],
        "plan.3.evolved": found["within_a_percent_evolved"],
    },
    "deserve": lambda found: {
        "plan.4.throughput": percent(found["worst_difference"]),
        "plan.4.round": sum(row["round_s"] < row["published_round_s"] for row in found["rows"]),
    },
    "example": claimed_of("example"),
    "hexgen": claimed_of("58"),
    "large": claimed_of("405b"),
    "size": lambda found: {"plan.6.serve": max(row["cpu_s"] for row in found)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description="The planner for serving against what is known.")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="try less in the comparisons of unequal stages")
    parser.add_argument("--json", type=Path, help="where to write the record; parts that are already there stay")
    parser.add_argument("--picture", type=Path, help="where to draw planning time against the size of the fleet")
    parser.add_argument("--note", default="", help="what else the machine was doing")
    arguments = parser.parse_args()
    record = record_parts(
        arguments.json,
        {"benchmark": "planner_serve", "method": " ".join((__doc__ or "").split("\n\n", 2)[2].split())},
        arguments.part,
        lambda part: PARTS[part](PART if arguments.quick else WHOLE),
        {"note": arguments.note},
        CLAIMED,
    )
    if arguments.picture and "size" in record:
        draw_sizes(record["size"]["result"], arguments.picture)


if __name__ == "__main__":
    main()
