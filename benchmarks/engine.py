"""Does one process with one stage serve at least as many tokens per second as `transformers`' own continuous batching?

Both run the same random-weight Llama, the same greedy requests, on the same cores, in turns within one run:

    ours      Engine.step() until everything has ended; engine and cache are made inside the measured time
    theirs    model.generate_batch(...) with SDPA attention, which makes its cache inside the measured time too

Before, `generate_batch` is given a choice of settings on a short version of the same requests, and keeps the fastest.
Neither side pays for loading weights. Reported: tokens per second by the wall clock and per second of processor time
(on a machine that others use too, only the latter is steady), medians over the rounds, and how many requests got the
same tokens from both. On a CUDA device also the share of the memory-bandwidth limit reached while decoding.

    python benchmarks/engine.py                                            40 M parameters, float32, one thread
    python benchmarks/engine.py --device cuda --dtype bfloat16 --hidden-size 2048 --layers 16
"""

import argparse
import datetime
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.records import machine as cores
from benchmarks.register import claims
from benchmarks.workload import MAX_CONTEXT, llama, mixed_requests, save
from muster.model.load import load_stage
from muster.model.stage import Stage
from muster.model.weights import open_directory
from muster.serve.engine import Engine
from muster.serve.options import EngineOptions
from muster.spec.request import Request

RESULTS = Path(__file__).parent / "results"
PAGE_SIZE = 32
NO_SHARING = {"allow_block_sharing": False}
"""The prompts are random; looking for common beginnings would only cost."""


@dataclass
class Run:
    """One measured pass over all requests."""

    wall_s: float
    cpu_s: float
    tokens: dict[str, list[int]]

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.tokens.values()))

    def figures(self) -> dict[str, float]:
        return {
            "wall_s": self.wall_s,
            "cpu_s": self.cpu_s,
            "tokens_per_s": self.num_tokens / self.wall_s,
            "tokens_per_cpu_s": self.num_tokens / self.cpu_s,
        }


def timed(work: Callable[[], dict[str, list[int]]], device: torch.device) -> Run:
    synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    tokens = work()
    synchronize(device)
    return Run(time.perf_counter() - wall, time.process_time() - cpu, tokens)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def num_pages(requests: Sequence[Request], page_size: int) -> int:
    return sum(-(-(len(one.prompt) + one.sampling.max_tokens) // page_size) for one in requests) + 1


def ours(stage: Stage, requests: Sequence[Request], prefill_tokens: int) -> dict[str, list[int]]:
    cache = stage.new_cache(num_pages(requests, PAGE_SIZE), PAGE_SIZE)
    engine = Engine(
        stage, cache, options=EngineOptions(MAX_CONTEXT, prefill_tokens=prefill_tokens, max_batch=len(requests))
    )
    tokens: dict[str, list[int]] = {one.id: [] for one in requests}
    for one in requests:
        engine.submit(one)
    while engine.has_work:
        for progress in engine.step().progress:
            tokens[progress.request_id] += [sampled.token for sampled in progress.tokens]
    return tokens


def theirs(model: LlamaForCausalLM, requests: Sequence[Request], settings: dict[str, Any]) -> dict[str, list[int]]:
    new_tokens = requests[0].sampling.max_tokens
    outputs = model.generate_batch(
        [list(one.prompt) for one in requests],
        generation_config=GenerationConfig(do_sample=False, max_new_tokens=new_tokens, eos_token_id=-1),
        continuous_batching_config=ContinuousBatchingConfig(**settings),
        progress_bar=False,
    )
    by_prompt = {tuple(output.prompt_ids): output.generated_tokens for output in outputs.values()}
    return {one.id: list(by_prompt[one.prompt]) for one in requests}


def candidates(requests: Sequence[Request], device: torch.device) -> list[dict[str, Any]]:
    """What `generate_batch` may choose from. With its defaults alone it plans for a far larger machine."""
    if device.type == "cuda":
        return [{}, {"max_batch_tokens": 2048}, {"max_batch_tokens": 2048, **NO_SHARING}]
    few = len(requests)
    return [
        {"page_size": size, "num_blocks": num_pages(requests, size) + few, "max_batch_tokens": batch, **NO_SHARING}
        for size, batch in ((32, few), (32, 2 * few), (32, 4 * few), (32, 8 * few), (256, few), (256, 2 * few))
    ]


def choose(model: LlamaForCausalLM, requests: Sequence[Request], device: torch.device) -> tuple[dict[str, Any], Any]:
    trials = []
    for settings in candidates(requests, device):
        run = timed(lambda settings=settings: theirs(model, requests, settings), device)
        trials.append({"settings": settings, **run.figures()})
        say(f"trial {settings}: {run.num_tokens / run.wall_s:.1f} tokens/s, {run.num_tokens / run.cpu_s:.1f} per cpu-s")
    clock = "tokens_per_s" if device.type == "cuda" else "tokens_per_cpu_s"
    return max(trials, key=lambda trial: trial[clock])["settings"], trials


def decode_bandwidth(stage: Stage, run: Run, requests: Sequence[Request], model_bytes: int) -> dict[str, float]:
    """Share of the memory bandwidth that the decode steps needed at least: every step reads all weights and all keys
    and values. The bandwidth is that of a large copy, measured here."""
    device = stage.device
    block = torch.empty(1 << 30, dtype=torch.uint8, device=device)
    copy = timed(lambda: [block.clone() for _ in range(8)] and {}, device)
    bandwidth = 8 * 2 * block.nbytes / copy.wall_s
    steps = requests[0].sampling.max_tokens
    cache = stage.new_cache(1, PAGE_SIZE).nbytes / PAGE_SIZE
    context = sum(len(one.prompt) + steps / 2 for one in requests)
    needed = steps * (model_bytes + cache * context)
    return {"bandwidth_bytes_per_s": bandwidth, "share_of_limit": needed / run.wall_s / bandwidth}


def same_tokens(first: Run, second: Run) -> dict[str, int]:
    equal = sum(first.tokens[name] == second.tokens[name] for name in first.tokens)
    return {"requests": len(first.tokens), "identical": equal}


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    torch.set_num_threads(arguments.threads)
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
    model = llama(arguments.hidden_size, arguments.layers, arguments.vocab_size)
    with tempfile.TemporaryDirectory() as folder:
        stage = load_stage(open_directory(save(model, Path(folder))), 0, arguments.layers, dtype, device)
    model = model.to(device=device, dtype=dtype)
    model.set_attn_implementation("sdpa")
    full = mixed_requests(arguments.requests, 16, 256, arguments.new_tokens, arguments.vocab_size)
    short = mixed_requests(arguments.requests, 16, 256, arguments.trial_tokens, arguments.vocab_size)
    ours(stage, short, arguments.prefill_tokens)
    settings, trials = choose(model, short, device)
    rounds: list[dict[str, Any]] = []
    for number in range(arguments.rounds):
        mine = timed(lambda: ours(stage, full, arguments.prefill_tokens), device)
        other = timed(lambda: theirs(model, full, settings), device)
        same = same_tokens(mine, other)
        rounds.append({"ours": mine.figures(), "theirs": other.figures(), "same_tokens": same, "load": os.getloadavg()})
        say(f"round {number + 1}: {json.dumps(rounds[-1])}")
    model_bytes = sum(p.nbytes for p in model.parameters()) - model.get_input_embeddings().weight.nbytes
    return {
        "question": __doc__.splitlines()[0] if __doc__ else "",
        "method": __doc__,
        "arguments": vars(arguments),
        "parameters": sum(p.numel() for p in model.parameters()),
        "machine": machine(device),
        "their_settings": {"attention": "sdpa", **settings},
        "their_trials": trials,
        "rounds": rounds,
        "median": summary(rounds),
        "decode": decode_bandwidth(stage, mine, full, model_bytes) if device.type == "cuda" else None,
    }


def summary(rounds: Sequence[dict[str, Any]]) -> dict[str, float]:
    def median(side: str, figure: str) -> float:
        return statistics.median(one[side][figure] for one in rounds)

    figures = ("tokens_per_s", "tokens_per_cpu_s")
    result = {f"{side}_{figure}": median(side, figure) for side in ("ours", "theirs") for figure in figures}
    for figure in figures:
        result[f"ratio_{figure}"] = result[f"ours_{figure}"] / result[f"theirs_{figure}"]
    return result


def claimed(median: dict[str, float]) -> dict[str, float]:
    return {
        "first.2.processor": round(median["ratio_tokens_per_cpu_s"], 3),
        "first.2.clock": round(median["ratio_tokens_per_s"], 3),
    }


def machine(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "device": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1, help="processor threads for both sides")
    parser.add_argument("--hidden-size", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocab-size", type=int, default=16384)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=200)
    parser.add_argument("--trial-tokens", type=int, default=24)
    parser.add_argument("--prefill-tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--note", default="", help="what else the machine was doing")
    parser.add_argument("--output", type=Path, default=RESULTS / f"engine-{datetime.date.today().isoformat()}.json")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    output: Path = arguments.output
    arguments.output = output.name
    result = measure(arguments)
    accelerator = result["machine"]["device"] if arguments.device != "cpu" else ""
    result["claims"] = claims(claimed(result["median"]), cores(accelerator))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["median"], indent=1))


if __name__ == "__main__":
    main()
