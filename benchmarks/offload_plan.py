"""What the planner of offload says: of FlexGen's own machine beside FlexGen's tables, and against sweeps.

    python benchmarks/offload_plan.py [--part oracle sweep tensors published mixture] [--quick] [--json FILE]

    oracle     FlexGen's own equations and constants: eight figures that another program computed from them
    sweep      our policy on small cases against an exhaustive sweep: every microbatch and number of microbatches up to
               the limit, both orders, both places of attention; and, for every seventh of those, against all shares on
               a grid of quarters (the linear program's own claim)
    tensors    the rule by which a stage keeps whole tensors, against a mixed-integer program (offload_tensors.py)
    published  OPT-6.7B, 30B and 175B on the published T4 (15 GB free, 200 GB of host memory, 1.5 TB of disk that reads
               2 GB/s), prompts of 512 and answers of 32: what FlexGen measured, what its model says, what our model
               says of FlexGen's own policy (its bus, its attention on the CPU, and its waiting for loads), and what
               `muster plan` forecasts for its own policy, with that attention and with one at 75 % of two channels of
               DDR4-3200
    mixture    GLM-4.7 (353 billion parameters, 160 experts) on one RTX 4090, 256 GB of host memory, 2 TB of disk at 6
               GB/s, weights and cache in 4 bits; experts wanted alike (the least that a hot set can gain)

All figures are computed; nothing is run but the planner. One process, one thread.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent))
import numpy as np

from benchmarks.offload_tensors import compared
from benchmarks.records import Claimed, percent, record_parts, timed
from muster.cost.measured import constants_of
from muster.cost.named_shapes import named_shape
from muster.cost.offload.flexgen import GIB, OPT, FlexGenMachine
from muster.cost.offload.load import stage_sizes
from muster.cost.offload.rates import tier_rates
from muster.cost.offload.step import BlockSize, num_shares, places
from muster.errors import DoesNotFit
from muster.plan.offload.block import BlockProblem, best_shares
from muster.plan.offload.chain import OffloadChain, OffloadOptions, plan_chain
from muster.plan.offload.published import forecast_published, plan_published
from muster.plan.offload.serve import plan_offload
from muster.plan.serve.search import plan_serving
from muster.sim.serve.offload import offload_forecast
from muster.spec.devices import device_facts
from muster.spec.few_bits import FewBits
from muster.spec.model_shape import ModelShape
from muster.spec.plan import MemoryPolicy, Pipeline, Plan, ServeSettings, Stage
from muster.spec.pool import Device, Node, Pool
from muster.spec.tiers import TierRates
from muster.spec.workload import ServeWorkload

ASKED = ServeWorkload(512, 32)
ORACLE = (
    ("opt-30b", 512, (48, 3), (0.2, 0.8, 0, 0, 1, 0, 0, 1, 0), 0.473, "7.14"),
    ("opt-30b", 256, (160, 2), (0.1, 0.9, 0, 0, 1, 0, 0, 1, 0), 0.473, "12.97"),
    ("opt-30b", 1024, (20, 4), (0.04, 0.96, 0, 0, 1, 0, 0, 1, 0), 0.473, "3.62"),
    ("opt-175b", 512, (32, 8), (0, 0.5, 0.5, 0, 0, 1, 0, 1, 0), 0.473, "0.154"),
    ("opt-175b", 512, (32, 8), (0, 0.5, 0.5, 0, 0, 1, 0, 1, 0), 1.6, "0.46"),
    ("opt-175b", 512, (32, 8), (0, 0.5, 0.5, 0, 0, 1, 0, 1, 0), 2.0, "0.55"),
    ("opt-6.7b", 512, (2, 1), (1, 0, 0, 1, 0, 0, 1, 0, 0), 0.473, "60.8"),
)
"""Model, prompt, batches, shares, GiB/s of the disk, and the figure as printed."""
THEIRS: dict[str, tuple[tuple[int, int], tuple[float, ...], float]] = {
    "opt-6.7b": ((2, 1), (1, 0, 1, 0, 1, 0), 25.26),
    "opt-30b": ((48, 3), (0.2, 0.8, 0, 1, 0, 1), 7.32),
    "opt-175b": ((32, 8), (0, 0.5, 0, 0, 0, 1), 0.69),
}
"""FlexGen's README: sequences at once and how often, its six percentages, and tokens per second as measured."""
IN_FEW_BITS = {"opt-6.7b": 29.12, "opt-30b": 8.38, "opt-175b": 1.12}
THEIR_ATTENTION, OUR_ATTENTION = 12.3e9, 0.75 * 51.2e9
"""Bytes of cache per second on the host: of theirs, one FLOP a byte in its model; of ours, assumed."""


def oracle(quick: bool) -> dict[str, Any]:
    rows = []
    for model, prompt, batches, shares, disk, printed in ORACLE:
        sizes, machine = replace(OPT[model], prompt=prompt), FlexGenMachine(from_disk=disk * GIB)
        said = forecast_published(sizes, machine, *batches, np.array(shares, dtype=float)).tokens_per_s
        rows.append({"model": model, "printed": printed, "said": said, "equal": _as_printed(said, printed)})
    found = plan_published(OPT["opt-30b"], FlexGenMachine())
    assert found is not None
    same = (found.gbs, found.num_batches) == (32, 5) and _as_printed(found.tokens_per_s, "7.09")
    rows.append({"model": "opt-30b, its own search", "printed": "7.09", "said": found.tokens_per_s, "equal": same})
    return {"rows": rows, "policy": asdict(found)}


def _as_printed(value: float, printed: str) -> bool:
    return f"{value:.{len(printed.partition('.')[2])}f}" == printed


def small_cases(quick: bool) -> list[tuple[ModelShape, Node]]:
    """Machines whose device holds a part of a small model, by what limits them."""
    rates = TierRates(
        device_bytes_per_s=1e11,
        to_device_bytes_per_s=1e9,
        from_device_bytes_per_s=1e9,
        disk_read_bytes_per_s=2e8,
        disk_write_bytes_per_s=1e8,
        host_attention_bytes_per_s=1e9,
        matmul_flops_per_s=((1, 2e11), (64, 4e12)),
        attention_flops_per_s=2e12,
        layer_s=1e-5,
        copy_s=1e-6,
        step_s=1e-4,
        copies_overlap=0.9,
        disk_overlap=0.95,
        attention_overlap=0.8,
    )
    cases = [
        ("cuda", 50e6, 120e6, 0.0, rates),
        ("cuda", 50e6, 35e6, 300e6, rates),
        ("cuda", 60e6, 100e6, 200e6, replace(rates, host_attention_bytes_per_s=2e8)),
        ("cuda", 45e6, 90e6, 100e6, replace(rates, to_device_bytes_per_s=2e8, copies_overlap=0.3)),
        ("cuda", 70e6, 60e6, 0.0, replace(rates, matmul_flops_per_s=((1, 1e10), (64, 1e11)))),
        ("cpu", 50e6, 0.0, 300e6, replace(rates, disk_read_bytes_per_s=1e9, attention_overlap=0.0)),
    ]
    shape = _small_shape()
    found = [
        (shape, Node(f"case {number}", "", "", Device(kind, "", int(device), {}, 0, 0, 0, int(host), int(disk), tiers)))
        for number, (kind, device, host, disk, tiers) in enumerate(cases)
    ]
    return found[:2] if quick else found


def _small_shape() -> ModelShape:
    layers, nbytes = 6, 10_000_000
    return ModelShape(
        name="small",
        architecture="Small",
        dtype="float16",
        num_layers=layers,
        hidden_size=512,
        vocab_size=100,
        max_context=4096,
        layer_bytes=(nbytes,) * layers,
        layer_flops_per_token=(nbytes,) * layers,
        kv_bytes_per_token=(2000,) * layers,
        embedding_bytes=100_000,
        head_bytes=100_000,
        head_flops_per_token=100_000,
        attention_flops_per_pair=(2048,) * layers,
    )


def sweep(quick: bool) -> dict[str, Any]:
    most = 24
    options = OffloadOptions(max_sequences=most, prompt_tokens=(128, 512))
    asked, rows = ServeWorkload(64, 32), []
    for shape, node in small_cases(quick):
        chain = OffloadChain(shape, [node], Pool((node,)), asked, options)
        found, spent = timed(lambda chain=chain: plan_chain(chain))
        looked_at = len(chain.solved)
        sizes = [
            BlockSize(b, k, 64, 32, order, "device", tokens)
            for b in range(1, most + 1)
            for k in range(1, most // b + 1)
            for order, tokens in product(options.orders, options.prompt_tokens)
        ]
        swept = [one for size in sizes if (one := chain.plan((0, shape.num_layers), size))]
        best = max(swept, key=lambda one: one.tokens_per_s)
        problem = BlockProblem(shape, 0, shape.num_layers, node.device, tier_rates(node.device, shape.dtype))
        grids = [lost for size in sizes[::37] if (lost := _lost_to_grid(problem, size)) is not None]
        rows.append(
            {
                "case": node.id,
                "found": found.tokens_per_s,
                "size": asdict(found.size),
                "best": best.tokens_per_s,
                "best_size": asdict(best.size),
                "lost_percent": percent(1 - found.tokens_per_s / best.tokens_per_s),
                "lost_to_grid_percent": percent(max(grids)) if grids else None,
                "grids": len(grids),
                "sizes_swept": len(sizes),
                "sizes_looked_at": looked_at,
                **spent,
            }
        )
    return {"rows": rows}


def _lost_to_grid(problem: BlockProblem, size: BlockSize) -> float | None:
    """By how much the fastest of all shares on a grid of quarters that fit beats the program's; at most 0."""
    found, at = best_shares(problem, size), places(problem.sizes)
    if found is None:
        return None
    thirds = [np.array([a, b, 4 - a - b]) / 4 for a in range(5) for b in range(5 - a)]
    times = []
    for resident in (False, True):
        asked = replace(problem, resident=resident)
        for weights, cache, hidden in product(thirds, thirds, np.eye(3)):
            x = np.zeros(num_shares(problem.sizes))
            x[at["every step"]], x[at["cache"]], x[at["hidden"]] = weights, cache, hidden
            x[at["embedding"]] = [asked.embedding == tier for tier in ("device", "host", "disk")]
            if (weights[0] == 1) >= resident and asked.fits(size, x):
                times.append(asked.seconds(size, x))
    return found.seconds / min(times) - 1 if times else None


def t4(attention: float, *, waits: bool = False) -> Node:
    """FlexGen's machine. `waits`: loads hide behind nothing, as its code has it."""
    facts = device_facts("t4").device()
    tiers = TierRates(
        to_device_bytes_per_s=12.89 * GIB,
        from_device_bytes_per_s=4.82 * GIB,
        disk_read_bytes_per_s=2e9,
        disk_write_bytes_per_s=1e9,
        host_attention_bytes_per_s=attention,
        copies_overlap=0.0 if waits else 1.0,
        measured_on="FlexGen's README and the constants of its cost model",
    )
    lent = replace(facts, host_memory_bytes=200 * 2**30, disk_bytes=1_500 * 10**9, tiers=tiers)
    return Node("t4", "t4", "", lent, price_per_hour=0.53)


def theirs(model: str, node: Node) -> float:
    """Tokens per second that our model says of FlexGen's own policy; whether it fits by our books is not asked."""
    (microbatch, count), shares, _ = THEIRS[model]
    policy = MemoryPolicy(
        *shares, microbatch, count, "zigzag", "host", 512 * microbatch, "device" if shares[0] == 1 else "host"
    )
    shape = named_shape(model)
    settings = ServeSettings(num_pages=1, page_size=16, num_microbatches=1, batch=microbatch * count)
    plan = Plan(model, (Pipeline((Stage(node.id, 0, shape.num_layers, memory=policy),), settings),))
    everything = replace(node.device, memory_bytes=10**13, host_memory_bytes=10**13, disk_bytes=10**14)
    pool = Pool((replace(node, device=everything),))
    return offload_forecast(plan, pool, shape, ASKED, constants_of(pool)).tokens_per_s


def ours(shape: ModelShape, node: Node, **options: Any) -> dict[str, Any]:
    """`muster plan`: whole on the device if it fits, else with the policy that is computed."""
    pool = Pool((node,))
    try:
        found, spent = timed(lambda: plan_serving(shape, pool, ASKED, constants=constants_of(pool)))
        how = "fits: nothing is offloaded"
    except DoesNotFit:
        found, spent = timed(lambda: plan_offload(shape, pool, ASKED, OffloadOptions(**options), constants_of(pool)))
        how = found.plan.explanation
    policy = asdict(found.plan.pipelines[0].stages[0].memory)
    return {
        "tokens_per_s": found.forecast.tokens_per_s,
        "how": how,
        "bottleneck": found.forecast.bottleneck,
        "request_s": found.forecast.request_s,
        "policy": policy,
        **spent,
    }


def published(quick: bool) -> dict[str, Any]:
    rows = []
    for model, (_, _, measured) in THEIRS.items():
        (gbs, count), six, _ = THEIRS[model]
        shares = [six[0], six[1], 1 - six[0] - six[1], six[2], six[3], 1 - six[2] - six[3], six[4], six[5], 0]
        its_model = forecast_published(OPT[model], FlexGenMachine(), gbs, count, np.array(shares))
        few = named_shape(model, few_bits=FewBits("int4", "int4"))
        same = ours(named_shape(model), t4(THEIR_ATTENTION), orders=("zigzag",))
        rows.append(
            {
                "model": model,
                "flexgen_measured": measured,
                "flexgen_measured_4_bits": IN_FEW_BITS[model],
                "flexgen_model_of_its_policy": its_model.tokens_per_s,
                "our_model_of_its_policy": theirs(model, t4(THEIR_ATTENTION, waits=True)),
                "our_model_of_its_policy_without_waiting": theirs(model, t4(THEIR_ATTENTION)),
                "ours_its_attention_zigzag": same,
                "ours": ours(named_shape(model), t4(OUR_ATTENTION)),
                "ours_4_bits": ours(few, t4(OUR_ATTENTION)),
            }
        )
    for row in rows:
        row["our_error_percent"] = percent(abs(row["our_model_of_its_policy"] / row["flexgen_measured"] - 1))
        row["its_error_percent"] = percent(abs(row["flexgen_model_of_its_policy"] / row["flexgen_measured"] - 1))
        row["times_flexgen"] = row["ours"]["tokens_per_s"] / row["flexgen_measured"]
        row["times_flexgen_its_attention"] = row["ours_its_attention_zigzag"]["tokens_per_s"] / row["flexgen_measured"]
        row["times_flexgen_4_bits"] = row["ours_4_bits"]["tokens_per_s"] / row["flexgen_measured_4_bits"]
    return {"rows": rows}


def mixture(quick: bool) -> dict[str, Any]:
    """Beside it what the link would allow if a step had to bring every expert that is not on the device."""
    facts = device_facts("rtx-4090").device()
    tiers = TierRates(disk_read_bytes_per_s=6e9, disk_write_bytes_per_s=3e9, host_attention_bytes_per_s=OUR_ATTENTION)
    lent = replace(facts, memory_bytes=23 * 10**9, host_memory_bytes=256 * 10**9, disk_bytes=2 * 10**12, tiers=tiers)
    node, shape = Node("4090", "4090", "", lent), named_shape("glm-4.7", few_bits=FewBits("int4", "int4"))
    sizes = stage_sizes(shape, 0, shape.num_layers)
    found = {f"skew {skew:g}": ours(shape, node, skew=skew) for skew in ((0.0,) if quick else (0.0, 0.5, 1.0))}
    alone = {"one request": ours_alone(shape, node)}
    return {"weights_bytes": sizes.weight_bytes, "by_skew": found, **alone}


def ours_alone(shape: ModelShape, node: Node) -> dict[str, Any]:
    pool = Pool((node,))
    asked = replace(ASKED, concurrency=1)
    found = plan_offload(shape, pool, asked, constants=constants_of(pool))
    return {"tokens_per_s": found.forecast.tokens_per_s, "bottleneck": found.forecast.bottleneck}


def tensors(quick: bool) -> dict[str, Any]:
    return {"rows": compared()}


PARTS = {"oracle": oracle, "sweep": sweep, "tensors": tensors, "published": published, "mixture": mixture}


def _published_claims(result: Any) -> dict[str, float]:
    by_model = {row["model"]: row for row in result["rows"]}
    names = {model: model.replace("6.7b", "6b") for model in THEIRS}  # the register has no dots in names
    figures = {f"offload.7.{name}": by_model[model]["times_flexgen"] for model, name in names.items()}
    figures |= {f"offload.7.{name}-4-bits": by_model[model]["times_flexgen_4_bits"] for model, name in names.items()}
    figures["offload.7.its-policy"] = median(row["our_error_percent"] for row in result["rows"])
    return figures


CLAIMED: dict[str, Claimed] = {
    "oracle": lambda result: {"offload.2.oracle": sum(row["equal"] for row in result["rows"])},
    "sweep": lambda result: {
        "offload.2.sweep": max(row["lost_percent"] for row in result["rows"]),
        "offload.2.shares": max(row["lost_to_grid_percent"] or 0.0 for row in result["rows"]),
    },
    "tensors": lambda result: {
        "offload.2.tensors": percent(max(row["lost"] for row in result["rows"])),
        "offload.2.tensors-median": percent(median(row["lost"] for row in result["rows"])),
    },
    "published": _published_claims,
    "mixture": lambda result: {"offload.7.mixture": result["by_skew"]["skew 0"]["tokens_per_s"]},
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="fewer cases")
    parser.add_argument("--json", type=Path, help="write the record here; parts that are in it already stay")
    options = parser.parse_args(arguments)
    record = record_parts(
        options.json,
        {"benchmark": "offload_plan"},
        options.part,
        lambda part: PARTS[part](options.quick),
        {"quick": str(options.quick)},
        CLAIMED,
    )
    if options.json is None:
        for part in options.part:
            print(part, record[part]["result"])


if __name__ == "__main__":
    main()
