"""Training while machines are killed and come back: goodput, steps made again, and the loss beside a calm run.

    python benchmarks/churn.py [--steps 300] [--faults 20] [--seed 0] [--json FILE]

Three pipelines of two stages and two machines to spare, each lent so much of this one (`--speed`) that eight fit; a
Llama of two layers, 24 texts of 128 bytes a step. Twice the same run: calm, and with kills (`kill -9`) of a machine
that holds a stage, drawn by the seed and spread over the run, at most one a window. A killed machine starts again five
seconds later, as it would by its service manager, with what it had on its disk.

goodput     the steps of the run x the calm run's median step / the time from the first step to the last
made again  steps that were told twice, at most one for each fault
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.records import machine
from benchmarks.register import claims
from benchmarks.training_lab import TrainingPool, Wanted, training, worker_specs
from muster.lab.processes import Lab

STAGES, PIPELINES, SPARE, SHARE = 2, 3, 2, 0.055
BACK_S = 5.0
NAMES = [f"w{number}" for number in range(STAGES * PIPELINES + SPARE)]


def fault_steps(steps: int, faults: int, draw: random.Random) -> list[int]:
    """One somewhere in each of `faults` windows of equal length, none at the very ends."""
    if not faults:
        return []
    window = steps / (faults + 1)
    return [round(window * (number + 0.5 + draw.random())) for number in range(faults)]


async def one_run(folder: Path, steps: int, faults: list[int], draw: random.Random) -> dict[str, Any]:
    wanted = Wanted("out", STAGES, PIPELINES, steps=steps, texts=96)
    killed: list[dict[str, Any]] = []
    async with Lab(folder / "lab") as lab, training(lab, folder, worker_specs(NAMES, SHARE), wanted) as pool:
        began_s = time.monotonic()
        for step in faults:
            await pool.reach(step)
            killed.append(await kill(pool, draw))
        await pool.reach(steps)
        seconds = time.monotonic() - began_s
    told = pool.told
    made = [event["step"] for event in told]
    return {
        "seconds": round(seconds, 1),
        "step_s": median(event["seconds"] for event in told),
        "steps": len(set(made)) - 1,
        "made_again": len(made) - len(set(made)),
        "rounds": told[-1]["round"],
        "with_fewer": sum(event["pipelines"] < PIPELINES for event in told),
        "killed": killed,
        "losses": {event["step"]: event["loss"] for event in told},
        "step_seconds": [round(event["seconds"], 2) for event in told],
        "pipelines": [event["pipelines"] for event in told],
    }


async def kill(pool: TrainingPool, draw: random.Random) -> dict[str, Any]:
    """One of those that hold a stage now, which comes back later."""
    victim = draw.choice(sorted(name for name in pool.holders if pool.workers[name].alive))
    step = pool.told[-1]["step"]
    pool.workers[victim].kill()

    async def back() -> None:
        await asyncio.sleep(BACK_S)
        spec = next(spec for spec in worker_specs(NAMES, SHARE) if spec.name == victim)
        pool.workers[victim] = await pool.lab.worker(spec, pool.ticket)

    pool.lab.background(back())
    print(f"killed {victim} after step {step}", flush=True)
    return {"name": victim, "after_step": step}


def measure(steps: int, faults: int, seed: int) -> dict[str, Any]:
    draw = random.Random(seed)
    found: dict[str, Any] = {"steps": steps, "faults": fault_steps(steps, faults, draw), "seed": seed}
    for name, when in (("calm", []), ("churn", found["faults"])):
        with tempfile.TemporaryDirectory(prefix="muster-churn-") as folder:
            found[name] = asyncio.run(one_run(Path(folder), steps, when, draw))
        print(name, {key: value for key, value in found[name].items() if key != "losses"}, flush=True)
    calm, churn = found["calm"], found["churn"]
    found["goodput"] = 100 * churn["steps"] * calm["step_s"] / churn["seconds"]
    found["goodput_of_calm"] = 100 * calm["steps"] * calm["step_s"] / calm["seconds"]
    found["largest_loss_difference"] = max(abs(churn["losses"][step] - loss) for step, loss in calm["losses"].items())
    found["lost_s_for_each"] = (churn["seconds"] - calm["seconds"]) / max(1, faults)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    date = datetime.now(UTC).isoformat(timespec="seconds")
    found = measure(options.steps, options.faults, options.seed)
    print({key: value for key, value in found.items() if key not in ("calm", "churn")})
    figures = {
        "train.6.goodput": found["goodput"],
        "train.6.again": max(0, found["churn"]["made_again"] - options.faults),
        "train.6.loss": found["largest_loss_difference"],
    }
    if options.json is not None:
        about = {"benchmark": "churn", "method": __doc__ or "", "date": date, "machine": machine()}
        record = about | found | {"claims": claims(figures, machine(), date)}
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
