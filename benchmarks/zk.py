"""What zero-knowledge proofs cost here: a disputed tile, the search for a layout, and the table of tasks and provers.

    python benchmarks/zk.py [tile|tune|sweeps|TASK|table ...] [--json FILE] [--pictures FOLDER]

`tile` makes a dispute about a layer of 576 inputs, one number of which is wrong by a hundredth, proves 64 rows and
checks them; beside it stand the referee's own check (`verify/disputes/interval`) and Freivalds' for kept `r W`.
Public values at both ends of input and output are changed in turn. `sweeps` changes one number of a layout at a time
(`benchmarks/zk_sweeps`). The table is a part for each task (ecdsa, merkle-keccak, merkle-poseidon, digits, dlrm), each
some minutes, and `table` joins those in the record; two of its provers need `npm`.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks import zk_sweeps
from benchmarks.records import record_parts
from muster.errors import ProtocolViolation
from muster.verify.disputes.interval import judge
from muster.verify.disputes.tensors import from_raw
from muster.verify.zk import evidence, tile
from muster.verify.zk import tune as search
from muster.verify.zk.bench import published, table
from muster.verify.zk.bench.networks import trained
from muster.verify.zk.bench.rows import TASKS
from muster.verify.zk.child import ChildLimits, WhyNot
from muster.verify.zk.sample import sample
from muster.verify.zk.transcript import shown
from tests.verify.zk.disputes import NAME, dispute

INNER, OUTER, TOKENS = 576, 1536, 16
PARTS = ("tile", "tune", "sweeps", *TASKS, "table")
LIMITS = ChildLimits(6_000, 200)


def disputed_tile() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(OUTER, INNER, generator=generator) / INNER**0.5
    x = torch.randn(TOKENS, INNER, generator=generator)
    one = shown(dispute(w, lie=1e-2, x=x))
    place = tile.worst_place(one, {NAME: w})
    with TemporaryDirectory(prefix="muster-zk-") as folder:
        out, srs = Path(folder) / "proof", Path(folder) / "kzg.srs"
        proof = evidence.prove(one, place, tile.secret(one.operator, {NAME: w}, place), out, srs)
        verdict = evidence.check(one, out, proof.key, srs)
        verify_s = [evidence.check(one, out, proof.key, srs).verify_s for _ in range(3)]
        accepted = changed_and_accepted(one, out, srs, (0, INNER - 1, INNER, INNER + 63))
    values = {6: x}
    claimed = from_raw(one.outputs[0].dtype, one.outputs[0].shape, one.outputs[0].data)
    interval_s = fastest(lambda: judge(one.operator, values, {NAME: w}, [claimed]))
    r = np.random.default_rng(1).normal(size=OUTER)
    kept, row, y = r @ w.double().numpy(), x[1].double().numpy(), claimed[1].double().numpy()
    freivalds_s = fastest(lambda: abs(kept @ row - r @ y))
    found = asdict(proof) | {"is_lie": verdict.is_lie, "off": verdict.off, "quantisation_error": verdict.error}
    return found | {
        "rows_proven": place.last - place.first, "inner": INNER, "honest_radius": verdict.radius,
        "verify_s": sorted(verify_s)[1], "interval_s": interval_s, "freivalds_s": freivalds_s, "accepted": accepted,
    }  # fmt: skip


def changed_and_accepted(one: Any, out: Path, srs: Path, numbers: tuple[int, ...]) -> int:
    """How many changed proofs pass: of each of these public values one more than it is."""
    path = out / "proof.json"
    right, accepted = path.read_text(), 0
    for number in numbers:
        proof = json.loads(right)
        word = proof["instances"][0][number]
        proof["instances"][0][number] = f"{(int(word[:2], 16) + 1) % 256:02x}{word[2:]}"
        path.write_text(json.dumps(proof))
        try:
            evidence.check(one, out, srs=srs)
        except ProtocolViolation:
            continue
        accepted += 1
    path.write_text(right)
    return accepted


def fastest(work: Any, times: int = 20) -> float:
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def tuned() -> dict[str, Any]:
    network, x, start = sample()
    with TemporaryDirectory(prefix="muster-zk-") as folder:
        found = search.tune(network, x, Path(folder), start, say=lambda words: print(words, flush=True))
    default = found.default.reason if isinstance(found.default, WhyNot) else found.default.said["seconds"]
    best = found.best.said["seconds"]
    tried = [{"layout": search.in_words(one), "rows": one.rows, "prove_s": seconds} for one, seconds in found.tried]
    return {"default": default, "best": best, "times_faster": found.times_faster, "tried": tried}


def task_rows(task: str) -> list[dict[str, Any]]:
    return [row.record() for row in table.rows(LIMITS, task, say=lambda words: print(words, flush=True))]


def whole_table(path: Path | None) -> dict[str, Any]:
    """Of the parts that stand in the record already; what is missing is run."""
    kept = json.loads(path.read_text()) if path and path.exists() else {}
    rows = [row for task in TASKS for row in (kept[task]["result"] if task in kept else task_rows(task))]
    networks = {name: trained(name) for name in table.NETWORKS}
    right = {name: {"float": one.accuracy_float, "circuit": one.accuracy_whole} for name, one in networks.items()}
    return {"rows": rows, "accuracy": right, "published": [asdict(one) for one in published.ROWS]}


CLAIMED = {
    "tile": lambda found: {
        "zk.5.seconds": round(found["total_s"], 1),
        "zk.5.error": round(1e9 * found["quantisation_error"], 2),
        "zk.4.accepted": found["accepted"],
        "zk.3.verify": round(found["verify_s"], 3),
    },
    "tune": lambda found: {"zk.3.tune": round(found["times_faster"] or 0.0, 1)},
    "sweeps": lambda found: {"zk.2.interior": zk_sweeps.above_optimum(found["columns"])},
    "table": lambda found: {
        "zk.1.cells": sum("prove_s" in row for row in found["rows"]),
        "zk.6.digits": round(100 * found["accuracy"]["digits"]["circuit"], 1),
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pictures", type=Path, help="a folder for those of the sweeps")
    asked = parser.parse_args()
    work = {"tile": disputed_tile, "tune": tuned, "sweeps": zk_sweeps.sweeps, "table": lambda: whole_table(asked.json)}

    def run(part: str) -> Any:
        found = work[part]() if part in work else task_rows(part)
        if part == "sweeps" and asked.pictures:
            zk_sweeps.draw(found, asked.pictures)
        print(json.dumps(found, indent=1))
        return found

    record_parts(asked.json, {"benchmark": "zk"}, asked.parts, run, {}, CLAIMED)


if __name__ == "__main__":
    main()
