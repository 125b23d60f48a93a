"""What compression costs in loss: the embedded model fine-tuned with compressed and with plain links, and replicas.

    python benchmarks/convergence.py [--cases NAME ...] [--seeds 0 1 2] [--folder FOLDER] [--minutes N]
    python benchmarks/convergence.py --collect [--folder FOLDER] [--json FILE] [--pictures FOLDER]

Each case and seed is one file in FOLDER (a minute or two each on one core); those that are there are not run again, so
that a run may stop anywhere and go on. `--minutes` begins none later than that. `--collect` reads them all.

Model: `tiny` (5.5 M parameters, `--model` takes another), in float32. Texts: six standard-library files that were held
out whole when it was trained; their beginnings (3,072 tokens each) are trained on, what follows (1,024 tokens) is what
is scored. Seeds change which files, and the order. All cases of a seed see the same texts in the same order with the
same learning rates.

links      Six stages, five links, five epochs. AQ-SGD (`aq-B`) beside the same quantizer applied to the values
           (`channel-B`), both with gradients of 8 or 4 bits, and the codec without memory. The first epoch of AQ-SGD
           goes in full.
replicas   Two copies of the whole model, 150 steps: exact sums of gradients, sums packed in 8 and 4 bits, DiLoCo and
           SparseLoCo with 30 local steps, and SparseLoCo with nothing packed.
           DiLoCo has its published outer optimizer here (rate 0.7, momentum 0.9), which is made for long runs.
long       The same with twice the files, half the texts in a step and 600 steps: 20 rounds of local steps instead of 5,
           and a momentum of 0.4 for DiLoCo.

Bars are on means over the seeds that are there: of links of the loss at the end, of replicas of the least on the way.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.records import machine
from benchmarks.register import claims
from muster.draw.curve import draw_curves
from muster.draw.render import svg
from muster.model.shape import shape_of
from muster.model.source import resolve
from muster.model.weights import open_directory
from muster.spec.training import BatchTable, DataTable, ExchangeTable, LinksTable, OptimizerTable, TrainingRun
from muster.text.tokenizer import load_tokenizer
from muster.train.corpus import Corpus, Ids, deal
from muster.train.instructions import Kind
from muster.train.links import StageLinks
from muster.train.local import LocalPipelines, build_places
from muster.train.step import RunLayout
from tools.train_tiny import split

CPU = torch.device("cpu")
LENGTH = 128
BEGIN, END, CHARACTERS = 3072, 1024, 60_000
"""Tokens of each file that are trained on, and that are scored; how much of a file is read for them."""
SCORED, SCORED_EVERY = 64, 18
STAGES, LOCAL_STEPS = 6, 30
FOLDER = Path("build/convergence")
PLAIN, EXACT, LONG = "links plain", "replicas exact", "long exact"
BESIDE = {"links": PLAIN, "replicas": EXACT, "long": LONG}
"""By the first word of a case: what it is held against."""


@dataclass(frozen=True, slots=True)
class Case:
    links: dict[str, str] = field(default_factory=dict)
    exchange: dict[str, Any] = field(default_factory=dict)
    replicas: int = 1
    stages: int = STAGES
    steps: int = 90
    files: int = 6
    sequences: int = 8
    """In a step, over all replicas."""


def _replicas(**exchange: Any) -> Case:
    return Case(exchange=exchange, replicas=2, stages=1, steps=5 * LOCAL_STEPS)


def _long(**exchange: Any) -> Case:
    return Case(exchange=exchange, replicas=2, stages=1, steps=20 * LOCAL_STEPS, files=12, sequences=4)


_LOCAL: dict[str, Any] = {"every": LOCAL_STEPS}
_SPARSE: dict[str, Any] = _LOCAL | {"feedback": 0.95, "outer_learning_rate": 1.0, "outer_momentum": 0.0}
CASES = {
    PLAIN: Case(),
    "links direct 2 4": Case({"forward": "channel-2", "backward": "channel-4"}),
    "links aq 2 4": Case({"forward": "aq-2", "backward": "channel-4"}),
    "links direct 4 8": Case({"forward": "channel-4", "backward": "channel-8"}),
    "links aq 4 8": Case({"forward": "aq-4", "backward": "channel-8"}),
    "links tile 4 8": Case({"forward": "tile-4", "backward": "channel-8"}),
    EXACT: _replicas(),
    "replicas int8": _replicas(codec="int8"),
    "replicas int4": _replicas(codec="int4"),
    "replicas diloco": _replicas(codec="int8", **_LOCAL),
    "replicas sparseloco": _replicas(codec="chunk-top-k-1/64", **_SPARSE),
    LONG: _long(),
    "long diloco": _long(codec="int8", outer_momentum=0.4, **_LOCAL),
    "long sparseloco": _long(codec="chunk-top-k-1/64", **_SPARSE),
    "replicas sparseloco raw": _replicas(codec="fp32", **_SPARSE | {"feedback": 0.0}),
}
"""Of links: bits forward, bits of gradients. The last one is SparseLoCo without its codec: plain means of weights."""


def texts(model: str, seed: int, files: int) -> tuple[Ids, Ids]:
    """Token ids that are trained on, and that are scored: the beginnings and the ends of some files."""
    root = Path(json.__file__).parent.parent
    tokenizer = load_tokenizer(resolve(model))
    try:
        encoded = [
            tokenizer.encode(path.read_text(encoding="utf-8")[:CHARACTERS], add_special_tokens=False)[: BEGIN + END]
            for path in split(root)[1]
        ]
    finally:
        tokenizer.close()
    long = [ids for ids in encoded if len(ids) == BEGIN + END]
    chosen = np.random.Generator(np.random.PCG64(seed)).permutation(len(long))[:files]
    begins, ends = ([long[index][part] for index in chosen] for part in (slice(BEGIN), slice(BEGIN, None)))
    return tuple(np.array([id for ids in part for id in ids] + [0], dtype=np.uint32) for part in (begins, ends))  # type: ignore[return-value]


def run_case(case: Case, seed: int, model: str) -> dict[str, Any]:
    ids, scored_ids = texts(model, seed, case.files)
    corpus, judged = Corpus(ids, LENGTH, seed), Corpus(scored_ids, LENGTH, 0)
    run = TrainingRun(
        model=model,
        out="o",
        steps=case.steps,
        data=DataTable(files=("none.txt",)),
        batch=BatchTable(sequences=case.sequences, length=LENGTH, microbatch=case.sequences // case.replicas),
        optimizer=OptimizerTable(learning_rate=3e-4, warm_up_steps=8, schedule="cosine"),
        seed=seed,
        links=LinksTable(**case.links),
        replicas=case.replicas,
        exchange=ExchangeTable(**case.exchange),
    )
    weights, layout = open_directory(resolve(model)), RunLayout(case.replicas, case.stages)
    layers = shape_of(weights.config_json, model, "float32").num_layers
    places = build_places(weights, run, layers, layout, [CPU])
    links = {place: StageLinks(place, run.links, seed) for place in places}
    pipelines = LocalPipelines(places, links)
    to_score = deal(judged.all_texts(SCORED), case.sequences, case.replicas)
    losses, held_out = [], [(0, pipelines.score(to_score).loss)]
    started = time.process_time()
    for step in range(run.steps):
        batch = corpus.batch(step, case.sequences)
        losses.append(
            pipelines.step(step, deal(batch, run.batch.microbatch, case.replicas), case.sequences * LENGTH).loss
        )
        # Replicas that make local steps are scored where they have just met.
        every = run.exchange.every if run.exchange.every > 1 else SCORED_EVERY
        if (step + 1) % every == 0 or step + 1 == run.steps:
            held_out.append((step + 1, pipelines.score(to_score).loss))
    return {
        "steps": run.steps,
        "losses": losses,
        "held_out": held_out,
        "final": held_out[-1][1],
        "traffic": {kind: sent(links.values(), kind) for kind in ("activations", "gradients", "shared")},
        "processor_s": round(time.process_time() - started, 1),
    }


def sent(links: Iterable[StageLinks], kind: Kind) -> dict[str, int]:
    """Bytes of the whole run, over all places."""
    counted = [one.traffic[kind] for one in links if kind in one.traffic]
    return {"raw": sum(one.raw for one in counted), "sent": sum(one.sent for one in counted)}


def file_of(folder: Path, name: str, seed: int) -> Path:
    return folder / f"{name.replace(' ', '-')}.{seed}.json"


def run_all(arguments: argparse.Namespace) -> None:
    arguments.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    until = time.monotonic() + 60 * arguments.minutes
    for seed in arguments.seeds:
        for name in arguments.cases or CASES:
            path = file_of(arguments.folder, name, seed)
            if path.exists() or time.monotonic() > until:
                continue
            about = {
                "case": name,
                "seed": seed,
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "machine": machine(),
                "model": arguments.model,
            }
            found = run_case(CASES[name], seed, arguments.model)
            path.write_text(json.dumps(about | found, indent=1) + "\n")
            print(
                f"{name:14} seed {seed}: held-out {found['held_out'][0][1]:.4f} -> {found['final']:.4f}, "
                f"{found['processor_s']} s",
                flush=True,
            )


def read_all(folder: Path) -> dict[str, dict[int, Any]]:
    """By case and seed."""
    found: dict[str, dict[int, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        one = json.loads(path.read_text(encoding="utf-8"))
        found.setdefault(one["case"], {})[one["seed"]] = one
    return found


def gaps(found: dict[str, dict[int, Any]], name: str, beside: str) -> list[float]:
    """Nats above the case it is held against, of each seed that both have."""
    seeds = sorted(found.get(name, {}).keys() & found.get(beside, {}).keys())
    return [lowest(found[name][seed]) - lowest(found[beside][seed]) for seed in seeds]


def lowest(run: dict[str, Any]) -> float:
    """Of links the loss at the end; of replicas the least, since long runs learn their few texts by heart."""
    if run["case"].startswith("links"):
        return float(run["final"])
    return float(min(loss for _, loss in run["held_out"]))


def summary(found: dict[str, dict[int, Any]]) -> dict[str, Any]:
    rows = {}
    for name in CASES:
        beside = BESIDE[name.split()[0]]
        apart = gaps(found, name, beside)
        if apart:
            end = statistics.mean(lowest(one) for one in found[beside].values())
            kinds = ("activations", "gradients") if name.startswith("links") else ("shared",)
            per_step = [
                sum(one["traffic"][kind]["sent"] for kind in kinds) / one["steps"] for one in found[name].values()
            ]
            rows[name] = {
                "seeds": len(apart),
                "gaps": apart,
                "gap": statistics.mean(apart),
                "gap_percent": 100 * statistics.mean(apart) / end,
                "bytes_per_step": statistics.mean(per_step),
            }
    return rows


def figures_of(rows: dict[str, Any]) -> dict[str, float]:
    found = {}
    for claim, name in (("aq-4", "links aq 4 8"), ("aq-2", "links aq 2 4")):
        direct = name.replace("aq", "direct")
        if name in rows and direct in rows:
            found[f"train.3.{claim}"] = rows[name]["gap"]
            found[f"train.3.{claim.replace('aq', 'direct')}"] = rows[direct]["gap"]
    for claim, name in (
        ("int8", "replicas int8"),
        ("int4", "replicas int4"),
        ("diloco", "long diloco"),
        ("sparseloco", "long sparseloco"),
    ):
        if name in rows:
            found[f"train.3.{claim}"] = rows[name]["gap_percent"]
    if "long sparseloco" in rows:
        found["train.3.sparseloco-bytes"] = rows[LONG]["bytes_per_step"] / rows["long sparseloco"]["bytes_per_step"]
    return found


def picture(found: dict[str, dict[int, Any]], group: str) -> str:
    """Held-out losses, means over seeds."""
    curves = {}
    for name in CASES:
        if name.startswith(group) and name in found:
            held_out = [one["held_out"] for one in found[name].values()]
            curves[name.removeprefix(group + " ")] = [
                (points[0][0], statistics.mean(loss for _, loss in points)) for points in zip(*held_out, strict=True)
            ]
    what = {"links": "compressed links", "replicas": "two replicas", "long": "two replicas, 20 rounds"}[group]
    return svg(draw_curves(f"Held-out loss in nats: {what}", curves))


def collect(arguments: argparse.Namespace) -> None:
    found = read_all(arguments.folder)
    rows = summary(found)
    for name, row in rows.items():
        print(
            f"{name:24} {row['seeds']} seeds: {row['gap']:+.4f} nats ({row['gap_percent']:+.2f} %), "
            f"{row['bytes_per_step']:,.0f} bytes a step"
        )
    for group in BESIDE:
        if arguments.pictures and any(name.startswith(group) for name in found):
            (arguments.pictures / f"convergence-{group}.svg").write_text(picture(found, group), encoding="utf-8")
    if arguments.json is not None:
        date = datetime.now(UTC).isoformat(timespec="seconds")
        record = {"date": date, "machine": machine(), "cases": rows, "runs": found}
        record["claims"] = claims(figures_of(rows), machine(), date)
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, help="default: beside the JSON file, else build/convergence")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--collect", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pictures", type=Path, help="the folder for them")
    arguments = parser.parse_args()
    if arguments.folder is None:
        arguments.folder = arguments.json.with_suffix(".parts") if arguments.json else FOLDER
    if not arguments.collect:
        run_all(arguments)
    if arguments.collect or arguments.json:
        collect(arguments)


if __name__ == "__main__":
    main()
