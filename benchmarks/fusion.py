"""FusionLLM's experiment and FusionAI's claim, by simulating the steps that machines would carry out.

    python benchmarks/fusion.py [--part fusionllm|fusionai] [--seeds 3] [--json FILE]

fusionllm  48 GPUs of six sites, links of 8 Mbit/s to 10 Gbit/s by a seed, ResNet-101 and GPT-2 (small). OP-Fence with
           AdaTopK against cuts of equal operators and of equal compute, each with dense messages and with uniform
           top-k. FusionLLM (arXiv 2410.12707) publishes 1.45 to 9.39 times over its baselines with 48 GPUs on such
           links; its testbeds' link tables were not at hand, so these links are this project's.
fusionai   50 RTX 3080 against four H100 on the same graphs (arXiv 2309.01172, an analysis), over home links, campus
           links and a data centre's.

Graphs are captured from the modules (`torch.export`), with FLOPs and bytes of each operator. Steps are simulated event
by event (`sim/graph`): what is complete is computed, first come, first served; a wire carries one message at a time.
Machines take `cost.pace.TYPICAL` of their peaks in float32 (fusionai: float16), and messages are float32. Nothing here
ran on a GPU.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import transformers
from torch import Tensor, nn

from benchmarks.records import machine
from benchmarks.register import claims
from muster.compress.adaptive import byte_ratios
from muster.model.graph.capture import capture
from muster.model.graph.estimate import operator_graph
from muster.plan.graph.baselines import equal_compute, equal_count
from muster.plan.graph.coarse import coarsened
from muster.plan.graph.executed import Link, executed, piece_seconds, transfer_seconds
from muster.plan.graph.fence import op_fence
from muster.plan.graph.placement import GraphPlacement, GraphProblem
from muster.spec.devices import device_facts
from muster.spec.fleets import shipped_fleet
from muster.spec.operator_graph import OperatorGraph
from muster.spec.pool import LinkSpeed, Node, Pool
from tests.model.graph.nets import ResNet

SITES, PER_SITE, MICROBATCHES, RATIO = 6, 8, 32, 100.0
"""`RATIO`: of bytes, on every link with uniform top-k, on the slowest with AdaTopK."""
DEVICES = ("rtx-2080-ti", "rtx-3080", "rtx-3090")
SLOWEST, FASTEST = 1e6, 1.25e9
"""Bytes per second: 8 Mbit/s and 10 Gbit/s."""
CUTS: dict[str, Callable[[GraphProblem, int], GraphPlacement]] = {
    "equal operators": equal_count,
    "equal compute": equal_compute,
    "OP-Fence on all": partial(op_fence, everyone=True),
    "OP-Fence": op_fence,
}
ASSUMPTIONS = [
    "Speed is half of each card's peak in float32 (`cost.pace.TYPICAL`); messages are float32; a codec costs no time.",
    "Six sites of eight machines. Inside a site 1 to 10 Gbit/s and 0.2 ms; between two sites 8 Mbit/s to 1 Gbit/s, "
    "even in the logarithm, and 5 to 60 ms; the same both ways. FusionLLM's own link tables were not at hand.",
    "`shuffled`: machines are listed in the order in which they happened to join; `by site`: a site together, "
    "which is kind to cuts that look at no link.",
    "A step has 32 microbatches: of 16 images of 32 x 32 (ResNet-101), or of 2 texts of 512 tokens (GPT-2 small).",
    "Equal cuts use all 48 machines, as `OP-Fence on all` does; `OP-Fence` leaves out what slows it down.",
    "Nothing is said of what top-k does to learning; time per step only.",
]


class GPT2(nn.Module):
    def __init__(self, length: int) -> None:
        super().__init__()
        config = transformers.GPT2Config(
            n_positions=length, use_cache=False, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
        )
        self.model = transformers.GPT2LMHeadModel(config)

    def forward(self, ids: Tensor, labels: Tensor) -> Tensor:
        logits = self.model(input_ids=ids).logits
        return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


def graphs() -> dict[str, OperatorGraph]:
    """Of one microbatch, in training. Modules have no numbers, only shapes."""
    with torch.device("meta"):
        images, labels = torch.zeros(16, 3, 32, 32), torch.zeros(16, dtype=torch.int64)
        ids = torch.zeros(2, 512, dtype=torch.int64)
        modules = {"resnet-101": (ResNet(), (images, labels)), "gpt2": (GPT2(512), (ids, ids))}
        return {name: coarsened(operator_graph(capture(*both))).graph for name, both in modules.items()}


def scattered(seed: int, by_site: bool) -> Pool:
    """48 machines of six sites."""
    rng = np.random.default_rng(seed)
    count = SITES * PER_SITE
    site = np.arange(count) // PER_SITE
    cards = rng.choice(len(DEVICES), count)
    inside = np.exp(rng.uniform(np.log(FASTEST / 10), np.log(FASTEST), SITES))
    between = np.exp(rng.uniform(np.log(SLOWEST), np.log(FASTEST / 10), (SITES, SITES)))
    far_s = rng.uniform(0.005, 0.06, (SITES, SITES))
    between[0, SITES - 1], inside[0] = SLOWEST, FASTEST  # both ends of the range are there
    nodes = [Node(f"m{i}", f"m{i}", f"site {site[i]}", device_facts(DEVICES[cards[i]]).device()) for i in range(count)]
    links = {}
    for i in range(count):
        for j in range(count):
            a, b = sorted((int(site[i]), int(site[j])))
            near = LinkSpeed(0.0002, float(inside[a]))
            if i != j:
                links[f"m{i}", f"m{j}"] = near if a == b else LinkSpeed(float(far_s[a, b]), float(between[a, b]))
    order = range(count) if by_site else rng.permutation(count)
    return Pool(tuple(nodes[i] for i in order), links)


def adaptive(problem: GraphProblem, placement: GraphPlacement) -> dict[Link, float]:
    seconds = transfer_seconds(problem, placement)
    ratios = byte_ratios(list(seconds.values()), max(piece_seconds(problem, placement)), RATIO)
    return dict(zip(seconds, ratios, strict=True))


def uniform(problem: GraphProblem, placement: GraphPlacement) -> dict[Link, float]:
    return dict.fromkeys(transfer_seconds(problem, placement), RATIO)


PACKINGS: dict[str, Callable[[GraphProblem, GraphPlacement], Mapping[Link, float]]] = {
    "dense": lambda problem, placement: {},
    "uniform top-k": uniform,
    "AdaTopK": adaptive,
}


def tried(graph: OperatorGraph, pool: Pool, seed: int) -> dict[str, Any]:
    """Seconds of a step by cut and packing."""
    problem = GraphProblem(graph, pool, MICROBATCHES, "float32", bytes_per_parameter_byte=4)
    found: dict[str, Any] = {}
    for cut, place in CUTS.items():
        placement = place(problem, seed)
        found[cut] = {"machines": len(placement.pieces), "forecast dense": round(placement.step_s, 4)}
        for packing, ratios in PACKINGS.items():
            chosen = ratios(problem, placement)
            run = executed(problem, placement, chosen)
            kept = [value for value in chosen.values() if value > 1]
            found[cut][packing] = round(run.step_s, 4)
            found[cut][f"links packed, {packing}"] = len(kept)
    return found


def speedups(row: Mapping[str, Any]) -> dict[str, float]:
    """Of OP-Fence with AdaTopK over the equal cuts, on as many machines and on those that it chooses."""
    return {
        ours: {
            f"{cut}, {packing}": round(row[cut][packing] / row[ours]["AdaTopK"], 3)
            for cut in ("equal operators", "equal compute")
            for packing in ("dense", "uniform top-k")
        }
        for ours in ("OP-Fence on all", "OP-Fence")
    }


def alike(row: Mapping[str, Any]) -> float:
    """What the cut alone brings at least: all with AdaTopK, all on 48 machines."""
    ours = row["OP-Fence on all"]["AdaTopK"]
    return round(min(row[cut]["AdaTopK"] for cut in ("equal operators", "equal compute")) / ours, 3)


def fusionllm(seeds: int) -> dict[str, Any]:
    rows = []
    for name, graph in graphs().items():
        for seed in range(seeds):
            for order in ("shuffled", "by site"):
                row = tried(graph, scattered(seed, order == "by site"), seed)
                rows.append({"network": name, "seed": seed, "order": order, "steps": row, "times": speedups(row)})
                rows[-1]["alike"] = alike(row)
                say(rows[-1])
    return {"rows": rows, "published": "1.45 to 9.39 times", "assumptions": ASSUMPTIONS}


def fusionai() -> dict[str, Any]:
    home, server = shipped_fleet("fusionai-50x3080"), shipped_fleet("fusionai-4xh100")
    fleets = {
        "home, 100 Mbit/s, 20 ms": home,
        "campus, 1 Gbit/s, 5 ms": replace(home, links={}, default_link=LinkSpeed(0.005, 125e6)),
        "data centre, 10 Gbit/s, 0.1 ms": replace(home, links={}, default_link=LinkSpeed(0.0001, 1.25e9)),
    }
    rows = []
    for name, graph in graphs().items():
        base = GraphProblem(graph, _apart(server), 4 * MICROBATCHES, "float16", 4)
        best = min(executed(base, place(base, 0)).step_s for place in (op_fence, equal_compute))
        for label, pool in fleets.items():
            problem = GraphProblem(graph, pool, 4 * MICROBATCHES, "float16", 4)
            placement = min((place(problem, 0) for place in CUTS.values()), key=lambda one: one.step_s)
            row: dict[str, Any] = {"network": name, "links": label, "four H100, s": round(best, 4)}
            row["peaks"] = round(float(problem.speed.sum() / base.speed.sum()), 3)
            row["machines"] = len(placement.pieces)
            for packing, ratios in PACKINGS.items():
                step_s = executed(problem, placement, ratios(problem, placement)).step_s
                row[packing] = round(best / step_s, 4)
            rows.append(row)
            say(row)
    return {"rows": rows, "published": "fifty RTX 3080 equal four H100"}


def _apart(pool: Pool) -> Pool:
    """The four cards of one machine as a pipeline of four, joined as they are inside."""
    nodes = [
        replace(node, id=f"{node.id}-{card}", device_count=1, inside=None)
        for node in pool.nodes
        for card in range(node.device_count)
    ]
    inside = pool.nodes[0].inside or LinkSpeed(1e-5, 25e9)
    return Pool(tuple(nodes), {}, inside)


def figures(found: Mapping[str, Any]) -> dict[str, float]:
    values: dict[str, float] = {}
    if "fusionllm" in found:
        rows = found["fusionllm"]["rows"]
        for order, name in (("shuffled", "joined"), ("by site", "by-site")):
            some = [row["times"]["OP-Fence on all"] for row in rows if row["order"] == order]
            times = [value for row in some for value in row.values()]
            values |= {f"graph.3.{name}-least": min(times), f"graph.3.{name}-most": max(times)}
        chosen = [value for row in rows for value in row["times"]["OP-Fence"].values()]
        values["graph.3.chosen-least"] = min(chosen)
        values["graph.3.scheduler"] = min(row["alike"] for row in rows)
        values["graph.5.simulated"] = median(
            round(100 * abs(row["steps"]["OP-Fence"]["forecast dense"] / row["steps"]["OP-Fence"]["dense"] - 1), 2)
            for row in rows
        )
    if "fusionai" in found:
        rows = found["fusionai"]["rows"]
        best = [max(row[packing] for packing in PACKINGS) for row in rows]
        for word in ("home", "campus"):
            share = max(value for row, value in zip(rows, best, strict=True) if row["links"].startswith(word))
            values[f"graph.4.{word}"] = round(100 * share, 2)
    return values


def say(row: Any) -> None:
    print(json.dumps(row), file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("fusionllm", "fusionai"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    began_s = time.perf_counter()
    found: dict[str, Any] = {}
    if arguments.part in (None, "fusionllm"):
        found["fusionllm"] = fusionllm(arguments.seeds)
    if arguments.part in (None, "fusionai"):
        found["fusionai"] = fusionai()
    values = figures(found)
    print(json.dumps(values, indent=1))
    if arguments.json:
        record = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "settings": {"seeds": arguments.seeds, "ratio": RATIO, "microbatches": MICROBATCHES},
            "wall_s": round(time.perf_counter() - began_s, 1),
            **found,
            "claims": claims(values, machine()),
        }
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
