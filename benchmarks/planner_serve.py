"""Does the planner place serving well: against exhaustive search, symmetric plans, published rings, and the clock?

    python benchmarks/planner_serve.py [--part small hexgen large deserve size] [--json FILE]

    small     30 fleets of three to six devices, drawn at random in three cities, OPT-30B in six lumps of layers: the
              search over every layout, and the evolving search that larger fleets get, against a brute force that
              tries every way to share the devices, every order, every cut and every tensor-parallel degree one by one
              (each with its best batch), without the planner's recursion, classes or bounds
    hexgen    asymmetric against symmetric plans (one degree and level layers within a replica), same search effort, on
              HexGen's 58 GPUs and on its example of 4 + 2 + 2 GPUs. Deadlines are multiples of the time of one request
              alone on the better plan. Peak rate: the highest Poisson rate at which the plan made for that rate has
              99 % in time; shortest deadline: likewise, at half of the asymmetric peak rate of the multiple 5; both by
              bisection, each time with a simulation of its own
    large     the same on the 58 GPUs with Llama-3.1-405B, of which one replica takes half of the fleet or more
    deserve   DeServe's ring at its six latencies: the stage time is calibrated once, on the published row without
              latency; steps in flight, pages, swap and layers are the planner's, the batch is the published one
    size      one search each for 8 to 1,000 devices in ten cities, Llama-3-70B

Throughputs are forecasts in closed form except in `hexgen`, where they are simulated. One process, one thread. `wall_s`
depends on what else the machine does; `cpu_s` is the processor time of the same search.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations, permutations, product
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.records import record_parts, timed
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
from muster.plan.serve.chain import Cut, Item
from muster.plan.serve.fleet import sort_into_classes
from muster.plan.serve.found import Found
from muster.plan.serve.job import make_job
from muster.plan.serve.options import ServeOptions
from muster.plan.serve.replica import Replicas
from muster.plan.serve.search import plan_serving
from muster.sim.rhythm import rhythm
from muster.sim.ring import Ring
from muster.sim.serving import simulate_serving
from muster.spec.fleets import shipped_fleet
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Plan, Stage
from muster.spec.pool import Pool
from muster.spec.workload import ServeWorkload

SMALL_FLEETS = 30
SIZES = (8, 16, 32, 64, 128, 256, 512, 1000)
MULTIPLES = (1.5, 2.0, 5.0)
IN_TIME = 0.99
BISECTIONS = 6
EVALUATIONS = 300
"""Of each search in `hexgen`, symmetric or not."""


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


def run_hexgen() -> dict[str, Any]:
    cases = [
        ("example 4 + 2 + 2", case_study(), "llama-2-70b"),
        ("hexgen-58", shipped_fleet("hexgen-58"), "llama-2-70b"),
    ]
    return {f"{name}, {model}": compare(pool, named_shape(model)) for name, pool, model in cases}


def run_large() -> dict[str, Any]:
    return compare(shipped_fleet("hexgen-58"), named_shape("llama-3.1-405b"), (2.0, 5.0))


def compare(pool: Pool, shape: ModelShape, multiples: Sequence[float] = MULTIPLES) -> dict[str, Any]:
    """Asymmetric first, symmetric second, in every pair."""
    offline = [timed(lambda level=level: plan(shape, pool, "throughput", level)) for level in (False, True)]
    alone_s = min(plan(shape, pool, "latency", level).score for level in (False, True))
    rows = [peak(shape, pool, alone_s * multiple) for multiple in multiples]
    rate = rows[multiples.index(5.0)]["peak_requests_per_s"][0] / 2
    deadlines = [shortest(shape, pool, rate, alone_s, level) for level in (False, True)]
    result = {
        "evaluations": EVALUATIONS,
        "alone_s": round(alone_s, 3),
        "offline_tokens_per_s": [round(one.forecast.capacity_tokens_per_s, 1) for one, _ in offline],
        "offline_simulated_tokens_per_s": [offline_rate(one, pool, shape) for one, _ in offline],
        "offline_bound": round(offline[0][0].bound, 1),
        "offline_seconds": [seconds for _, seconds in offline],
        "peak": [{"multiple": multiple, **row} for multiple, row in zip(multiples, rows, strict=True)],
        "best_rate_ratio": max(row["ratio"] or 0.0 for row in rows),
        "rate_for_deadlines": round(rate, 3),
        "shortest_deadline_s": [round(one, 3) for one in deadlines],
        "deadline_ratio": round(deadlines[1] / deadlines[0], 3),
    }
    say("hexgen", {key: value for key, value in result.items() if key != "offline_seconds"})
    return result


def offline_rate(found: Found, pool: Pool, shape: ModelShape) -> float:
    return round(simulate_serving(found.plan, pool, shape, CHAT).tokens_per_s, 1)


def plan(shape: ModelShape, pool: Pool, objective: Any, level: bool, work: ServeWorkload = CHAT) -> Found:
    return plan_serving(shape, pool, work, ServeOptions(objective=objective, symmetric=level, evaluations=EVALUATIONS))


def peak(shape: ModelShape, pool: Pool, deadline_s: float) -> dict[str, Any]:
    rates = [peak_rate(shape, pool, deadline_s, level) for level in (False, True)]
    return {
        "deadline_s": round(deadline_s, 3),
        "peak_requests_per_s": [round(rate, 3) for rate in rates],
        "ratio": round(rates[0] / rates[1], 3) if rates[1] else None,
    }


def peak_rate(shape: ModelShape, pool: Pool, deadline_s: float, level: bool) -> float:
    """The highest rate that a plan made for it keeps up with for 99 %, all else in time."""
    low, high = 0.0, plan(shape, pool, "throughput", level).bound / CHAT.output_tokens
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if keeps(shape, pool, middle, deadline_s, level) else (low, middle)
    return low


def keeps(shape: ModelShape, pool: Pool, rate: float, deadline_s: float, level: bool) -> bool:
    """Whether the plan made for this rate and deadline keeps the deadline in a simulation of its own."""
    work = replace(CHAT, requests_per_s=rate, deadline_s=deadline_s)
    try:
        return in_time(plan(shape, pool, "slo", level, work), pool, shape, rate, deadline_s)
    except MusterError:
        return False


def in_time(found: Found, pool: Pool, shape: ModelShape, rate: float, deadline_s: float) -> bool:
    """Over at least five deadlines' worth of arrivals, so that a queue has time to grow."""
    work = replace(CHAT, requests_per_s=rate, deadline_s=deadline_s)
    count = int(min(4000, max(300, 5 * deadline_s * rate)))
    # Another seed than the planner's own trials use.
    run = simulate_serving(found.plan, pool, shape, work, num_requests=count, seed=1)
    return run.attainment is not None and run.attainment >= IN_TIME


def shortest(shape: ModelShape, pool: Pool, rate: float, alone_s: float, level: bool) -> float:
    """The shortest deadline that a plan made for it keeps for 99 %."""
    low, high = 0.9 * alone_s, 20 * alone_s
    for _ in range(BISECTIONS):
        middle = (low * high) ** 0.5
        good = keeps(shape, pool, rate, middle, level)
        low, high = (low, middle) if good else (middle, high)
    return high


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
                "steps_in_flight": pipeline.num_microbatches,
                "published_steps_in_flight": steps,
                "batch": pipeline.batch,
                "pages": pipeline.num_pages,
                "swap_pages": pipeline.swap_pages,
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
    ring = Plan(shape.name, (Pipeline(stages, 10_000, DESERVE_PAGE, steps, DESERVE_BATCH, 2500),))

    def slower(factor: float) -> Constants:
        rates = {name: factor * getattr(TYPICAL, name) for name in ("matmul", "attention", "memory")}
        return replace(TYPICAL, **rates)

    low, high = 0.1, 10.0
    for _ in range(50):
        middle = (low * high) ** 0.5
        beat = rhythm(Ring(ring, 0, pool, shape, slower(middle)), DESERVE_WORK, steps * DESERVE_BATCH)
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


PARTS: dict[str, Callable[[], Any]] = {
    part.__name__.removeprefix("run_"): part for part in (run_small, run_hexgen, run_large, run_deserve, run_size)
}


def main() -> None:
    parser = argparse.ArgumentParser(description="The planner for serving against what is known.")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", type=Path, help="where to write the record; parts that are already there stay")
    parser.add_argument("--picture", type=Path, help="where to draw planning time against the size of the fleet")
    parser.add_argument("--note", default="", help="what else the machine was doing")
    arguments = parser.parse_args()
    record = record_parts(
        arguments.json,
        {"benchmark": "planner_serve", "method": " ".join((__doc__ or "").split("\n\n", 2)[2].split())},
        arguments.part,
        lambda part: PARTS[part](),
        {"note": arguments.note},
    )
    if arguments.picture and "size" in record:
        draw_sizes(record["size"]["result"], arguments.picture)


if __name__ == "__main__":
    main()
