"""Does a run that is cut end with the weights of a plain training loop, and how fast is one stage beside it?

    python benchmarks/training.py [--json FILE] [--steps N] [--rounds N]

Exactness: a Llama of four layers (64 wide, random weights) for 50 steps of 8 texts of 32 tokens in float32, as two
pipelines of four stages, against a loop as anybody would write it, with the same microbatches. What is reported is the
largest difference of any parameter. AdamW's epsilon is 1e-5, so that no step is made of rounding where a true gradient
is zero.

Speed: the embedded model on 4 texts of 256 tokens, microbatches of 1, `rounds` times a step of ours and a step of the
loop in turns; the ratio is of the medians. Other work on the machine slows both.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from benchmarks.records import machine
from benchmarks.register import claims
from muster.model.source import resolve
from muster.model.weights import open_directory
from muster.spec.training import BatchTable, DataTable, OptimizerTable, TrainingRun
from muster.train.corpus import deal
from muster.train.local import LocalPipelines, build_places
from muster.train.rates import learning_rate
from muster.train.step import RunLayout

CPU = torch.device("cpu")
LAYERS, STEPS, ROUNDS = 4, 50, 8


def run_of(steps: int, sequences: int, length: int) -> TrainingRun:
    return TrainingRun(
        model="m",
        out="o",
        steps=steps,
        data=DataTable(files=("none.txt",)),
        batch=BatchTable(sequences=sequences, length=length),
        optimizer=OptimizerTable(learning_rate=1e-3, warm_up_steps=5, epsilon=1e-5),
    )


def texts(run: TrainingRun, vocabulary: int, step: int) -> Tensor:
    """Eight different steps, again and again: something that can be learned."""
    generator = torch.Generator().manual_seed(step % 8)
    return torch.randint(0, vocabulary, (run.batch.sequences, run.batch.length + 1), generator=generator)


class PlainLoop:
    """What anybody would write."""

    def __init__(self, path: Path, run: TrainingRun) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        weights = list(self.model.parameters())
        options = run.optimizer
        groups = [
            {"params": [one for one in weights if one.dim() >= 2], "weight_decay": options.weight_decay},
            {"params": [one for one in weights if one.dim() < 2], "weight_decay": 0.0},
        ]
        self._adamw = torch.optim.AdamW(groups, betas=(options.beta1, options.beta2), eps=options.epsilon)
        self._run = run

    def step(self, number: int, ids: Tensor) -> None:
        for rows in torch.split(ids, self._run.batch.microbatch):
            logits = self.model(input_ids=rows[:, :-1], use_cache=False).logits
            loss = cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum") / ids[:, 1:].numel()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._run.optimizer.clip_norm or 1e9)
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate(self._run.optimizer, number, self._run.steps)
        self._adamw.step()
        self._adamw.zero_grad()


class Ours:
    def __init__(self, path: Path, run: TrainingRun, layers: int, layout: RunLayout) -> None:
        self.pipelines = LocalPipelines(build_places(open_directory(path), run, layers, layout, [CPU]))
        self._layout, self._run = layout, run

    def step(self, number: int, ids: Tensor) -> None:
        dealt = deal(ids, self._run.batch.microbatch, self._layout.pipelines)
        self.pipelines.step(number, dealt, ids[:, 1:].numel())


def exactness(folder: Path, steps: int) -> dict[str, Any]:
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    run = run_of(steps, sequences=8, length=32)
    plain, ours = PlainLoop(folder, run), Ours(folder, run, LAYERS, RunLayout(pipelines=2, stages=LAYERS))
    start = {name: tensor.clone() for name, tensor in plain.model.state_dict().items()}
    for step in range(steps):
        for loop in (plain, ours):
            loop.step(step, texts(run, config.vocab_size, step))
    tensors = ours.pipelines.tensors()
    ends = plain.model.state_dict()
    return {
        "steps": steps,
        "largest_difference": max(float((tensors[name] - end).abs().max()) for name, end in ends.items()),
        "largest_change": max(float((start[name] - end).abs().max()) for name, end in ends.items()),
    }


def speed(rounds: int) -> dict[str, Any]:
    path, run = resolve("tiny"), run_of(1000, sequences=4, length=256)
    plain = PlainLoop(path, run)
    layers = plain.model.config.num_hidden_layers
    ours = Ours(path, run, layers, RunLayout(1, 1))
    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    for step in range(rounds + 1):
        ids = texts(run, plain.model.config.vocab_size, step)
        for name, loop in (("ours", ours), ("plain", plain)):
            seconds[name].append(timed(loop.step, step, ids))
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    return {"rounds": rounds, "seconds": seconds, "ratio": medians["plain"] / medians["ours"]}


def timed(step: Callable[[int, Tensor], None], number: int, ids: Tensor) -> float:
    started = time.perf_counter()
    step(number, ids)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="muster-training-") as folder:
        exact = exactness(Path(folder), arguments.steps)
    print(f"largest difference {exact['largest_difference']:.3g} where weights moved by {exact['largest_change']:.3g}")
    fast = speed(arguments.rounds)
    print(f"one stage: {fast['ratio']:.3f} of a plain loop's tokens per second")
    figures = {"train.1.plain": exact["largest_difference"], "train.9.cpu": fast["ratio"]}
    if arguments.json is not None:
        date = datetime.now(UTC).isoformat(timespec="seconds")
        record = {"date": date, "machine": machine(), "exactness": exact, "speed": fast}
        record["claims"] = claims(figures, machine(), date)
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
