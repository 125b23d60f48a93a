"""Replicas that send a poisoned move: is it refused by its effect on the loss, and is an honest one ever?

    python benchmarks/poison.py [--rounds 100] [--seed 0] [--json FILE]

A Llama of two layers (64 wide, random weights) learns the bytes of standard-library files, four replicas with five
local steps each (`[exchange] judged = true`, 8 bits). In each round one of them, drawn by the seed, sends something
else than its move: the same ten times as large, or with the opposite sign, or noise ten times as large, or noise as
large as a move, in turns. What is counted: poisoned moves that were taken, of as many as rounds, and honest ones that
were refused, of three times as many.
"""

import argparse
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.records import machine
from benchmarks.register import claims
from muster.model.weights import open_directory
from muster.spec.training import BatchTable, DataTable, ExchangeTable, OptimizerTable, TrainingRun
from muster.train.corpus import Corpus, deal
from muster.train.instructions import Place
from muster.train.local import LocalPipelines, build_places
from muster.train.step import RunLayout
from tools.train_tiny import split

REPLICAS, LOCAL_STEPS, SEQUENCES, LENGTH = 4, 5, 16, 64
POISONS = ("ten times as large", "opposite sign", "large noise", "noise")


def poisoned(move: Tensor, kind: str, seed: int) -> Tensor:
    if kind.endswith("noise"):
        noise = torch.randn(move.shape, generator=torch.Generator().manual_seed(seed))
        return noise * ((10.0 if kind == "large noise" else 1.0) * move.norm() / noise.norm())
    return move * (10.0 if kind == "ten times as large" else -1.0)


def small_model(folder: Path, seed: int) -> None:
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)


def rehearse(folder: Path, rounds: int, seed: int) -> list[dict[str, Any]]:
    small_model(folder, seed)
    run = TrainingRun(
        model="m",
        out="o",
        steps=rounds * LOCAL_STEPS,
        data=DataTable(files=("none.txt",)),
        batch=BatchTable(sequences=SEQUENCES, length=LENGTH, microbatch=SEQUENCES // REPLICAS),
        optimizer=OptimizerTable(learning_rate=1e-3, warm_up_steps=LOCAL_STEPS, schedule="constant"),
        replicas=REPLICAS,
        exchange=ExchangeTable(
            codec="int8", every=LOCAL_STEPS, outer_learning_rate=1.0, outer_momentum=0.0, judged=True
        ),
    )
    text = b"".join(path.read_bytes() for path in split(Path(json.__file__).parent.parent)[1][:20])
    corpus = Corpus(np.frombuffer(text, dtype=np.uint8).astype(np.uint32), LENGTH, seed)
    pipelines = LocalPipelines(
        build_places(open_directory(folder), run, 2, RunLayout(REPLICAS, 1), [torch.device("cpu")])
    )
    drawn = np.random.Generator(np.random.PCG64(seed)).integers(0, REPLICAS, rounds)
    found = []
    for number, liar in enumerate(int(one) for one in drawn):
        kind = POISONS[number % len(POISONS)]
        exchange: Any = pipelines.trainers[Place(liar, 0)].exchange
        honest = exchange.moved
        exchange.moved = lambda weights, honest=honest, kind=kind, number=number: poisoned(
            honest(weights), kind, number
        )
        for step in range(number * LOCAL_STEPS, (number + 1) * LOCAL_STEPS):
            batch = corpus.batch(step, SEQUENCES)
            report = pipelines.step(step, deal(batch, run.batch.microbatch, REPLICAS), SEQUENCES * LENGTH)
        del exchange.moved
        found.append({"poison": kind, "liar": liar, "rejected": list(report.rejected), "loss": report.loss})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="muster-poison-") as folder:
        found = rehearse(Path(folder), arguments.rounds, arguments.seed)
    taken = sum(one["liar"] not in one["rejected"] for one in found)
    refused = sum(len(set(one["rejected"]) - {one["liar"]}) for one in found)
    print(f"{taken} of {len(found)} poisoned moves taken, {refused} of {3 * len(found)} honest ones refused")
    print(f"loss {found[0]['loss']:.3f} -> {found[-1]['loss']:.3f}")
    if arguments.json is not None:
        date = datetime.now(UTC).isoformat(timespec="seconds")
        record = {"date": date, "machine": machine(), "seed": arguments.seed, "rounds": found}
        figures = {"train.5.taken": float(taken), "train.5.refused": float(refused)}
        record["claims"] = claims(figures, machine(), date)
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
