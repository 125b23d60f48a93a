"""Are greedy tokens identical to single-process `transformers`, and seeded ones to themselves, whatever the split?

pool      a head and four workers in one process, joined by ticket over QUIC on loopback: broker, sessions and nodes
          as they run in production, every stage on another worker
greedy    concurrent requests of mixed length over 1 and several stages in float32, all in flight together, against
          `model.generate` for each request alone. Where a token differs, the unsplit model is asked about our own
          sequence: every token of it must have the best logit, or one within 1e-4 of the best (a near tie). Both
          are counted, and so are the positions where the two best logits lie that close at all.
seeded    the same requests, sampled; alone, all together, over other splits, with few pages (so that requests are
          preempted) and continued after an interruption: all tokens the same

python benchmarks/exactness.py                       64 requests of 200 tokens over 4 stages
"""

import argparse
import datetime
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.records import machine
from benchmarks.register import claims
from benchmarks.workload import MAX_CONTEXT, even_split, llama, mixed_requests, save
from muster.model.load import load_stage
from muster.model.stage import Stage
from muster.model.weights import open_directory
from muster.serve.local_ring import LocalRing
from muster.serve.options import EngineOptions
from muster.spec.request import Request
from muster.spec.sampling import Sampling
from tests.flows.live_pool import LivePool, engines
from tests.text.small_tokenizers import train_byte_level

RESULTS = Path(__file__).parent / "results"
NEAR_TIE = 1e-4
PATIENCE_S = 3600.0
PAGE_SIZE = 16

Tokens = dict[str, list[int]]


def load(path: Path, num_layers: int, num_stages: int) -> list[Stage]:
    weights = open_directory(path)
    ranges = even_split(num_layers, num_stages)
    return [load_stage(weights, first, last, torch.float32, torch.device("cpu")) for first, last in ranges]


def pages_for(requests: Sequence[Request]) -> int:
    return sum(-(-(len(one.prompt) + one.sampling.max_tokens) // PAGE_SIZE) for one in requests)


def serve(stages: Sequence[Stage], requests: Sequence[Request], num_pages: int | None = None) -> Tokens:
    """All requests at once over the stages, as many microbatches in flight as there are stages."""
    pages = num_pages or pages_for(requests)
    options = EngineOptions(
        MAX_CONTEXT, num_microbatches=len(stages), prefill_tokens=256, max_batch=max(1, len(requests))
    )
    ring = LocalRing(stages, [stage.new_cache(pages, PAGE_SIZE) for stage in stages], options)
    tokens = {one.id: list(one.emitted) for one in requests}
    for one in requests:
        ring.engine.submit(one)
    while ring.busy:
        for progress in ring.work():
            tokens[progress.request_id] += [sampled.token for sampled in progress.tokens]
    ring.engine.check()
    return tokens


@torch.inference_mode()
def generate(model: LlamaForCausalLM, request: Request) -> list[int]:
    """What `transformers` answers to one request alone."""
    prompt = torch.tensor([request.prompt])
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=request.sampling.max_tokens,
        pad_token_id=0,
    )
    result: list[int] = output[0, prompt.shape[1] :].tolist()
    return result


@torch.inference_mode()
def judge(model: LlamaForCausalLM, request: Request, tokens: Sequence[int]) -> tuple[int, int, float]:
    """Of our own sequence under the unsplit model: tokens that are not the best, positions where the two best are a
    near tie, and how far below the best the worst of our tokens lies."""
    sequence = torch.tensor([[*request.prompt, *tokens]])
    logits = model(sequence).logits[0, len(request.prompt) - 1 : -1]
    best = logits.topk(2, dim=-1).values
    chosen = logits.gather(1, torch.tensor(tokens)[:, None])[:, 0]
    behind = best[:, 0] - chosen
    ties = int((best[:, 0] - best[:, 1] <= NEAR_TIE).sum())
    return int((behind > 0).sum()), ties, float(behind.max())


def check_greedy(model: LlamaForCausalLM, requests: Sequence[Request], served: Mapping[str, Tokens]) -> dict[str, Any]:
    reference = {one.id: generate(model, one) for one in requests}
    report: dict[str, Any] = {
        "requests": len(requests),
        "tokens": sum(map(len, reference.values())),
        "positions_with_a_near_tie": sum(judge(model, one, reference[one.id])[1] for one in requests),
        "splits": {},
    }
    for split, tokens in served.items():
        different = [one for one in requests if tokens[one.id] != reference[one.id]]
        verdicts = [judge(model, one, tokens[one.id]) for one in different]
        report["splits"][split] = {
            "identical_requests": len(requests) - len(different),
            "excused_by_a_near_tie": sum(behind <= NEAR_TIE for _, _, behind in verdicts),
            "wrong_requests": sum(behind > NEAR_TIE for _, _, behind in verdicts),
            "largest_distance_from_best": max((behind for _, _, behind in verdicts), default=0.0),
        }
    return report


def sampled(requests: Sequence[Request]) -> list[Request]:
    """The same prompts with every kind of randomness that there is."""
    kinds = [
        Sampling(),
        Sampling(temperature=0.7, top_k=40),
        Sampling(temperature=1.3, top_p=0.9, repetition_penalty=1.1),
        Sampling(min_p=0.05, presence_penalty=0.4, frequency_penalty=0.3),
    ]
    return [
        replace(one, sampling=replace(kinds[i % 4], max_tokens=one.sampling.max_tokens, seed=i, ignore_eos=True))
        for i, one in enumerate(requests)
    ]


def check_seeded(runs: Mapping[str, Tokens]) -> dict[str, Any]:
    """How many requests of each run got the tokens of the first run."""
    first = next(iter(runs.values()))
    same = {name: sum(tokens[one] == first[one] for one in tokens) for name, tokens in runs.items()}
    return {"requests": len(first), "identical_requests": same}


def seeded_runs(path: Path, num_layers: int, num_stages: int, requests: Sequence[Request]) -> dict[str, Tokens]:
    requests = sampled(requests)
    one, many = load(path, num_layers, 1), load(path, num_layers, num_stages)
    together = serve(one, requests)
    longest = max(pages_for([request]) for request in requests)
    continued = [replace(r, emitted=tuple(together[r.id][: r.sampling.max_tokens // 3])) for r in requests]
    return {
        "one stage, all together": together,
        "one stage, each alone": {r.id: serve(one, [r])[r.id] for r in requests},
        f"{num_stages} stages": serve(many, requests),
        f"{num_stages} stages, few pages": serve(many, requests, max(longest, pages_for(requests) // 3)),
        f"{num_stages} stages, continued": serve(many, continued),
    }


def pool_runs(path: Path, requests: Sequence[Request]) -> tuple[dict[str, Any], Tokens, Tokens]:
    """What the pool looked like, and its greedy and its seeded tokens."""
    train_byte_level().save(str(path / "tokenizer.json"))  # a pool has one; token ids are all that is asked of it here
    with tempfile.TemporaryDirectory() as folder, LivePool(Path(folder), str(path), iroh=True) as pool:
        route = pool.until_serving(stages=4)
        started = time.perf_counter()
        greedy = pool.ask(requests, seconds=PATIENCE_S)
        seconds = time.perf_counter() - started
        seeded = pool.ask(sampled(requests), seconds=PATIENCE_S)
        (engine,) = engines(pool.serving(0))
        described = {
            "layers": [[stage.first, stage.last] for stage in route.pipeline.stages],
            "microbatches": route.pipeline.serve.num_microbatches,
            "pages": route.pipeline.serve.num_pages,
            "preemptions": engine.stats().preemptions,
            "resubmissions": pool.sessions.state.resubmissions,
            "greedy_tokens_per_s": sum(map(len, greedy.values())) / seconds,
        }
        return described, greedy, seeded


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(arguments.threads)
    model = llama(arguments.hidden_size, arguments.layers, arguments.vocab_size)
    requests = mixed_requests(arguments.requests, 5, arguments.longest, arguments.new_tokens, arguments.vocab_size)
    with tempfile.TemporaryDirectory() as folder:
        path = save(model, Path(folder))
        started = time.perf_counter()
        served = {f"{n} stages": serve(load(path, arguments.layers, n), requests) for n in (1, arguments.stages)}
        seeded = seeded_runs(path, arguments.layers, arguments.stages, requests)
        pool, served["a pool of 4 machines"], seeded["a pool of 4 machines"] = pool_runs(path, requests)
    return {
        "method": __doc__,
        "arguments": vars(arguments),
        "parameters": sum(p.numel() for p in model.parameters()),
        "machine": {"cores": os.cpu_count(), "torch": torch.__version__, "transformers": transformers.__version__},
        "pool": pool,
        "greedy": check_greedy(model, requests, served),
        "seeded": check_seeded(seeded),
        "wall_s": time.perf_counter() - started,
    }


def claimed(found: dict[str, Any]) -> dict[str, float]:
    greedy, seeded = found["greedy"], found["seeded"]
    return {
        "first.1.greedy": sum(split["wrong_requests"] for split in greedy["splits"].values()),
        "first.1.seeded": sum(seeded["requests"] - same for same in seeded["identical_requests"].values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--longest", type=int, default=300, help="tokens of the longest prompt")
    parser.add_argument("--new-tokens", type=int, default=200)
    parser.add_argument("--stages", type=int, default=4)
    parser.add_argument("--output", type=Path, default=RESULTS / f"exactness-{datetime.date.today().isoformat()}.json")
    arguments = parser.parse_args()
    output: Path = arguments.output
    arguments.output = output.name
    result = measure(arguments)
    result["claims"] = claims(claimed(result), machine())
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({"greedy": result["greedy"], "seeded": result["seeded"]}, indent=1))
    sys.exit(0 if all(one["holds"] for one in result["claims"]) else 1)


if __name__ == "__main__":
    main()
