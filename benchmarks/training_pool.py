"""Do processes that join a pool train as one process does, also when one of them is killed on the way?

    python benchmarks/training_pool.py [--json FILE] [--steps N]

A Llama of four layers (64 wide, random weights, the tokenizer of `tiny`) is trained three times by `muster train` on
the pages in `docs`, 8 texts of 32 tokens a step in float32: in one process, on eight that join by ticket (two pipelines
of four stages), and on nine of which one is killed after two fifths of the steps. What is reported is the largest
difference of any parameter from the single process, the losses step by step, and how many steps were made again.
AdamW's epsilon is 1e-5, so that no step is made of rounding where a true gradient is zero.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from safetensors.torch import load_file
from transformers import LlamaConfig

from benchmarks.records import machine
from benchmarks.register import claims
from muster.cost.config_fields import read_config
from muster.lab.processes import Child, Lab, WorkerSpec
from muster.lab.rehearsal import is_event
from muster.model.source import resolve
from muster.train.metrics import read_metrics

LAYERS, PIPELINES, STEPS = 4, 2, 50
ROOM_BYTES = 64 * 2**20
LONG_S = 240.0
DOCUMENTS = Path(__file__).parent.parent / "docs"
RUN = """
model = "config.json"
tokenizer = "tiny"
out = "{out}"
steps = {steps}
stages = {stages}
replicas = {replicas}
device = "cpu"
evaluate_every = 0
checkpoint_every = 10

[data]
files = ["{documents}/*.md"]

[batch]
sequences = 8
length = 32

[optimizer]
learning_rate = 1e-3
warm_up_steps = 5
epsilon = 1e-5
"""


def write_run(folder: Path, out: str, steps: int, stages: int, replicas: int) -> Path:
    vocabulary = read_config((resolve("tiny") / "config.json").read_text())["vocab_size"]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        architectures=["LlamaForCausalLM"],
    )
    (folder / "config.json").write_text(config.to_json_string())
    path = folder / f"{out}.toml"
    path.write_text(RUN.format(out=out, steps=steps, stages=stages, replicas=replicas, documents=DOCUMENTS))
    return path


async def alone(lab: Lab, folder: Path, steps: int) -> None:
    child = await lab.start("alone", ["train", str(write_run(folder, "alone", steps, 1, 1))])
    await child.wait_for("the end", is_event("done"), LONG_S)


async def together(lab: Lab, folder: Path, out: str, steps: int, spare: int, kill_at: int | None) -> dict[str, Any]:
    run = write_run(folder, out, steps, LAYERS, PIPELINES)
    count = LAYERS * PIPELINES + spare
    head = await lab.start(out, ["train", str(run), "--pool", str(count)])
    ticket = (await head.wait_for("its ticket", is_event("listening"), LONG_S))["ticket"]
    names = [f"{out}-{number}" for number in range(count)]
    machines: dict[str, Child] = {}
    for name in names:
        machines[name] = await lab.worker(WorkerSpec(name, "home", ROOM_BYTES), ticket)
    began_s = time.monotonic()
    killed = None
    if kill_at is not None:
        await head.wait_for("a step", lambda event: event.get("step") == kill_at, LONG_S)
        placed = [event for event in head.events if event.get("event") == "placed"][-1]
        killed = placed["stages"][LAYERS - 1]["name"]
        machines[killed].kill()
    await head.wait_for("the end", is_event("done"), LONG_S)
    steps_told = [event for event in head.events if event.get("event") == "step"]
    made = [event["step"] for event in steps_told]
    return {
        "seconds": round(time.monotonic() - began_s, 1),
        "step_s": median(event["seconds"] for event in steps_told),
        "pipelines": sorted({event["pipelines"] for event in steps_told}),
        "rounds": steps_told[-1]["round"],
        "made_again": len(made) - len(set(made)),
        "longest_step_s": max(event["seconds"] for event in steps_told[1:]),
        "killed": killed,
    }


def compared(folder: Path, out: str) -> dict[str, Any]:
    one, other = (load_file(folder / name / "model.safetensors") for name in ("alone", out))
    losses = [
        {line["step"]: line["loss"] for line in read_metrics(folder / name / "metrics.jsonl")}
        for name in ("alone", out)
    ]
    both = losses[0].keys() & losses[1].keys()
    return {
        "largest_difference": max(float((other[name] - tensor).abs().max()) for name, tensor in one.items()),
        "largest_loss_difference": max(abs(losses[0][step] - losses[1][step]) for step in both),
        "steps_told": len(losses[1]),
        "last_loss": losses[1][max(losses[1])],
    }


async def measure(folder: Path, steps: int) -> dict[str, Any]:
    found: dict[str, Any] = {"steps": steps}
    async with Lab(folder / "alone-lab") as lab:
        await alone(lab, folder, steps)
    for out, spare, kill_at in (("calm", 0, None), ("churn", 1, 2 * steps // 5)):
        async with Lab(folder / f"{out}-lab") as lab:
            found[out] = await together(lab, folder, out, steps, spare, kill_at)
        found[out] |= compared(folder, out)
        print(out, json.dumps(found[out]), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="muster-training-pool-") as folder:
        found = asyncio.run(measure(Path(folder), arguments.steps))
    figures = {
        "train.1.pool": found["calm"]["largest_difference"],
        "train.1.lost": found["churn"]["largest_difference"],
    }
    if arguments.json is not None:
        date = datetime.now(UTC).isoformat(timespec="seconds")
        record = {"date": date, "machine": machine(), **found, "claims": claims(figures, machine(), date)}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
