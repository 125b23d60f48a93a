"""A model eight times as large as the memory: Muster's offload beside `accelerate`'s, under one cap, in one run.

    sudo python benchmarks/offload.py [--models FOLDER] [--layers 32] [--context 512] [--ours 48 96] [--theirs 1 2 3]
                                      [--steps 3] [--json FILE]

The model has the shape of Llama-2-7B (13.5 GB in bfloat16) with random weights; fewer `--layers` make a smaller one
to try. Both run in a process of their own inside a control group whose memory limit is an eighth of the weights, page
cache included, and nothing is in the page cache when they begin. Each sequence has `--context` tokens in its cache
(FlexGen's prompts have 512) and gets a token a step. Of each side the batch with the most tokens per second counts,
of those that it survives: `accelerate` keeps its cache in memory and so holds few sequences; Muster's lies on the
same disk as the weights. The first step, which fills buffers, is not counted.

roof    the longer of reading what a step read at the disk's rate and of its FLOPs at the rate of products with as many
        rows as a piece has, both measured in the same run (`offload/measure`): no order would exceed it
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks.offload_models import llama, write_llama
from benchmarks.records import machine
from benchmarks.register import claims
from muster.offload.measure import measure_tiers
from muster.spec.tiers import TierRates

TIMES, PIECE_ROWS = 8, 64
PATIENCE_S = 900
HERE = Path(__file__).resolve().parent


class Cage:
    """A control group with a limit of memory; of the first version or the second."""

    def __init__(self, limit_bytes: int) -> None:
        old = Path("/sys/fs/cgroup/memory")
        self._folder = (old if old.is_dir() else Path("/sys/fs/cgroup")) / "muster-offload"
        self._names = (
            ("memory.limit_in_bytes", "memory.max_usage_in_bytes") if old.is_dir() else ("memory.max", "memory.peak")
        )
        try:
            self._folder.mkdir(exist_ok=True)
            (self._folder / self._names[0]).write_text(str(limit_bytes))
        except OSError as error:
            raise SystemExit(f"Cannot limit memory ({error.strerror}); run as root, with control groups.") from error

    def run(self, command: Sequence[str]) -> tuple[dict[str, Any] | None, int]:
        """What it says on its last line, and the most memory that it took; nothing where it was killed."""
        peak = self._folder / self._names[1]
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("1")  # what others have read would cost nobody anything
        if self._names[1] == "memory.max_usage_in_bytes":
            peak.write_text("0")
        group, environment = self._folder / "cgroup.procs", {**os.environ, "OMP_NUM_THREADS": "2"}
        done = subprocess.run(
            ["sh", "-c", f'echo $$ > {group}; exec "$@"', "sh", *command],
            capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=environment,
        )  # fmt: skip
        if done.returncode:
            print(f"  ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}", flush=True)
            return None, int(peak.read_text())
        return json.loads(done.stdout.strip().splitlines()[-1]), int(peak.read_text())

    def close(self) -> None:
        self._folder.rmdir()


def ours(cage: Cage, model: Path, folder: Path, batch: int, options: argparse.Namespace, cap: int) -> dict[str, Any]:
    asked = {
        "batch": batch, "context": options.context, "steps": options.steps, "microbatch": PIECE_ROWS, "block": batch,
        "staging_bytes": cap // 8,
    }  # fmt: skip
    words = [sys.executable, str(HERE / "offload_ours.py"), str(model), str(folder), json.dumps(asked)]
    return row("muster", batch, *cage.run(words))


def theirs(cage: Cage, model: Path, folder: Path, batch: int, options: argparse.Namespace, cap: int) -> dict[str, Any]:
    """What it may keep of weights is what the cap leaves beside cache, two layers and the program itself."""
    words = [sys.executable, str(HERE / "offload_accelerate.py"), str(model), str(batch), str(options.context)]
    keep = cap // 3
    return row("accelerate", batch, *cage.run([*words, str(options.steps), str(keep), str(folder / "accelerate")]))


def row(side: str, batch: int, said: dict[str, Any] | None, peak_bytes: int) -> dict[str, Any]:
    found: dict[str, Any] = {"side": side, "batch": batch, "peak_bytes": peak_bytes}
    if said is not None:
        step_s = median(said["steps_s"][1:])
        found |= said | {"step_s": step_s, "tokens_per_s": batch / step_s}
    print(json.dumps(found), flush=True)
    return found


def best(rows: Sequence[dict[str, Any]], side: str) -> dict[str, Any]:
    able = [one for one in rows if one["side"] == side and "tokens_per_s" in one]
    if not able:
        raise SystemExit(f"No batch of {side} came through; try smaller ones.")
    return max(able, key=lambda one: one["tokens_per_s"])


def roof(one: dict[str, Any], rates: TierRates, weight_bytes: int) -> dict[str, Any]:
    """Seconds that a step takes at least, by limit."""
    flops_per_s = dict(rates.matmul_flops_per_s)[PIECE_ROWS]
    least = {
        "disk": median(one["read_bytes"][1:]) / rates.disk_read_bytes_per_s,
        "compute": one["batch"] * weight_bytes / flops_per_s,  # two FLOPs for each number of two bytes
    }
    binds = max(least, key=lambda name: least[name])
    return {"seconds": least, "binds": binds, "share": least[binds] / one["step_s"]}


def measured(options: argparse.Namespace) -> dict[str, Any]:
    folder = options.models or Path(tempfile.mkdtemp(prefix="muster-offload-"))
    model = folder / f"llama-{options.layers}"
    weight_bytes = write_llama(model, llama(num_hidden_layers=options.layers))
    cap, rows = weight_bytes // TIMES, []
    print(f"{weight_bytes / 1e9:.2f} GB of weights under {cap / 1e9:.2f} GB", flush=True)
    rates = measure_tiers(torch.device("cpu"), torch.bfloat16, folder)
    cage = Cage(cap)
    try:
        with tempfile.TemporaryDirectory(dir=folder) as beside:
            turns = [(theirs, batch) for batch in options.theirs] + [(ours, batch) for batch in options.ours]
            rows = [run(cage, model, Path(beside), batch, options, cap) for run, batch in turns]
    finally:
        cage.close()
    first, second = best(rows, "muster"), best(rows, "accelerate")
    return {
        "weight_bytes": weight_bytes,
        "cap_bytes": cap,
        "context": options.context,
        "rates": {"disk_read_bytes_per_s": rates.disk_read_bytes_per_s, "matmul": rates.matmul_flops_per_s},
        "rows": rows,
        "gain": first["tokens_per_s"] / second["tokens_per_s"],
        "roof": roof(first, rates, weight_bytes),
    }


def figures(found: dict[str, Any]) -> dict[str, float]:
    if found["weight_bytes"] < 1e10:
        return {}
    said = {"offload.1.accelerate": found["gain"]}
    if found["roof"]["share"] <= 1:  # else the disk was slower while it was measured than while it was used
        said["offload.1.roof"] = 100 * found["roof"]["share"]
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="where the generated model is kept, on the disk that is measured")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--ours", type=int, nargs="+", default=[48, 96])
    parser.add_argument("--theirs", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    date = datetime.now(UTC).isoformat(timespec="seconds")
    found = measured(options)
    print(json.dumps({"gain": found["gain"], "roof": found["roof"]}), flush=True)
    if options.json is not None:
        about = {"benchmark": "offload", "method": __doc__ or "", "date": date, "machine": machine()}
        record = about | found | {"claims": claims(figures(found), machine(), date)}
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
