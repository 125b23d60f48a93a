"""What does swapping KV pages with host memory cost, how much of it is hidden, and what does a microbatch gain?

    copying   pages out of a stage's frames and back, gathered over all layers, beside plain copies of as many bytes
              within one memory, in turns within one run; on CUDA beside copies over the bus
    law       a ring of microbatches that take turns, many rounds, nothing computed: pages that each has against
              (P - 2 G) / N + G, and how many must come in during one step against G (DeServe, arXiv 2501.14784, 4.2)
    ring      a Llama with random weights in four stages of one process, with frames for some of its pages and with
              frames for all: the same steps, so the same tokens to the last bit; tokens per second of both, and the
              share of the copying thread's time for which no step had to wait

Nothing travels over a network here. About three minutes on two cores, of which the ring takes most.

    python benchmarks/swap.py --json FILE
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.exactness import load
from benchmarks.records import percent, record_parts
from benchmarks.workload import llama, mixed_requests, save
from muster.model.cache import HeadSizes, KVCache
from muster.model.host_pages import HostPages
from muster.serve.local_ring import LocalRing
from muster.serve.options import EngineOptions
from muster.serve.swap import Residency, StepPages
from muster.serve.swapping import SwappingCache, cache_of
from muster.spec.plan import ServeSettings
from muster.spec.request import Request

PAGE_SIZE = 16
TURNS = 9
SETTINGS = ((10_000, 2_500, 20), (10_000, 2_500, 36), (1_000, 100, 8), (1_000, 400, 4), (256, 64, 8))
"""(places P, pages under way G, microbatches N); the first two are DeServe's."""
ROUNDS = 12
LAYERS, HIDDEN, VOCABULARY, STAGES = 8, 512, 2048, 4
WORK = ServeSettings(num_pages=256, page_size=PAGE_SIZE, num_microbatches=8, swap_pages=64)


def copying(device: torch.device) -> dict[str, Any]:
    """GB/s of bytes that move, medians of `TURNS` turns."""
    cache = KVCache([HeadSizes(8, 128, 128)] * 10, 64, PAGE_SIZE, torch.float16, device)
    host = HostPages(cache, 64)
    pages = np.random.default_rng(0).permutation(64)[:48]
    frames, none = np.arange(48), np.empty(0, dtype=np.int64)
    there = torch.empty(48 * host.page_bytes, dtype=torch.uint8)
    here = torch.ones_like(there, device=device)
    if device.type == "cuda":
        there = there.pin_memory()

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def move(out: bool) -> None:
        some = (pages, frames)
        host.move(host.computed(), some if out else (none, none), (none, none) if out else some)

    ways: dict[str, Callable[[], object]] = {
        "out": lambda: move(True),
        "in": lambda: move(False),
        "plain out": lambda: there.copy_(here, non_blocking=True),
        "plain in": lambda: here.copy_(there, non_blocking=True),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(TURNS + 1):
        for way, work in ways.items():
            wait()
            began_s = time.perf_counter()
            work()
            wait()
            seconds[way].append(time.perf_counter() - began_s)
    rates = {way: len(there) / statistics.median(taken[1:]) / 1e9 for way, taken in seconds.items()}
    return {
        "page_bytes": host.page_bytes,
        "gb_per_s": {way: round(rate, 3) for way, rate in rates.items()},
        "share_of_plain": round(min(rates[way] / rates[f"plain {way}"] for way in ("in", "out")), 4),
    }


def law() -> list[dict[str, Any]]:
    return [one_ring(*setting) for setting in SETTINGS]


def one_ring(places: int, swapped: int, microbatches: int) -> dict[str, Any]:
    work = ServeSettings(places, PAGE_SIZE, microbatches, swap_pages=swapped)
    each = work.all_pages // microbatches
    books = Residency(work.all_pages, places, microbatches)
    none = np.empty(0, dtype=np.int64)
    late: list[int] = []
    ahead: list[int] = []
    seconds = 0.0
    for turn in range(ROUNDS * microbatches):
        pages = np.arange(each) + turn % microbatches * each
        is_first = turn < microbatches
        step = StepPages(pages, pages if is_first else none, pages if is_first else pages[::PAGE_SIZE])
        began_s = time.thread_time()
        entering, coming = books.enter(step), books.foresee()
        seconds += time.thread_time() - began_s
        if turn >= ROUNDS // 2 * microbatches:
            late.append(len(entering.in_pages))
            ahead.append(len(coming.in_pages))
    by_law = (places - 2 * swapped) / microbatches + swapped
    return {
        "places": places,
        "swapped": swapped,
        "microbatches": microbatches,
        "pages_each": each,
        "by_law": round(by_law, 1),
        "without_swap": round(places / microbatches, 1),
        "late_pages_each_step": max(late),
        "pages_in_each_step": {"mean": round(statistics.fmean(ahead), 1), "most": max(ahead)},
        "off_percent": percent(max(abs(each / by_law - 1), max(ahead) / swapped - 1)),
        "decided_in_cpu_ms": round(1e3 * seconds / (ROUNDS * microbatches), 3),
    }


def ring(requests: int, new_tokens: int) -> dict[str, Any]:
    wanted = mixed_requests(requests, 24, 104, new_tokens, VOCABULARY)
    options = EngineOptions(
        max_context=1024, num_microbatches=WORK.num_microbatches, prefill_tokens=256, max_batch=1024
    )
    with tempfile.TemporaryDirectory() as folder:
        stages = load(save(llama(HIDDEN, LAYERS, VOCABULARY), Path(folder)), LAYERS, STAGES)
        runs: dict[str, list[dict[str, Any]]] = {"with": [], "without": []}
        answers = []
        for way in ("without", "with", "with", "without"):
            if way == "with":
                caches: list[KVCache] = [cache_of(stage, WORK) for stage in stages]
            else:
                caches = [stage.new_cache(WORK.all_pages, PAGE_SIZE) for stage in stages]
                for cache in caches:
                    cache.step_pages = WORK.num_pages  # so that steps are the same, and sums in the same order
            found, figures = serve(LocalRing(stages, caches, options), wanted)
            answers.append(found)
            figures |= swapping(caches) if way == "with" else {}
            runs[way].append(figures)
    rates = {way: statistics.fmean(run["tokens_per_s"] for run in some) for way, some in runs.items()}
    return {
        "settings": {"places": WORK.num_pages, "swapped": WORK.swap_pages, "microbatches": WORK.num_microbatches},
        "runs": runs,
        "differing_answers": sum(any(other[name] != answers[0][name] for other in answers) for name in answers[0]),
        "hidden_share": round(statistics.fmean(run["hidden_share"] for run in runs["with"]), 4),
        "slower_percent": percent(1 - rates["with"] / rates["without"]),
        "most_pages_of_a_microbatch": round(max(r["most_pages"] for r in runs["with"]) / WORK.num_microbatches, 1),
        "by_law": WORK.all_pages / WORK.num_microbatches,
    }


def serve(local: LocalRing[Any], wanted: list[Request]) -> tuple[dict[str, list[int]], dict[str, Any]]:
    tokens: dict[str, list[int]] = {one.id: [] for one in wanted}
    for one in wanted:
        local.engine.submit(one)
    most_pages, began_s = 0, time.perf_counter()
    while local.busy:
        for progress in local.work():
            tokens[progress.request_id] += [sampled.token for sampled in progress.tokens]
        stats = local.engine.stats()
        most_pages = max(most_pages, stats.num_pages - stats.available_pages)
    seconds = time.perf_counter() - began_s
    generated = sum(map(len, tokens.values()))
    return tokens, {"tokens_per_s": round(generated / seconds, 1), "most_pages": most_pages}


def swapping(caches: list[KVCache]) -> dict[str, Any]:
    stats = [cache.swap.stats for cache in caches if isinstance(cache, SwappingCache)]
    moving_s, waited_s = sum(one.moving_s for one in stats), sum(one.waited_s for one in stats)
    return {
        "in_pages": sum(one.in_pages for one in stats),
        "out_pages": sum(one.out_pages for one in stats),
        "moving_s": round(moving_s, 3),
        "waited_s": round(waited_s, 3),
        "hidden_share": round(1 - min(1.0, waited_s / moving_s), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", type=Path, help="keep the record here, each part as it is done")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--requests", type=int, default=120)
    parser.add_argument("--new-tokens", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    parts = {
        "copying": lambda: copying(torch.device(arguments.device)),
        "law": law,
        "ring": lambda: ring(arguments.requests, arguments.new_tokens),
    }
    claimed = {
        "copying": lambda found: {"ring.9.copying": found["share_of_plain"]},
        "law": lambda found: {"ring.9.law": max(one["off_percent"] for one in found)},
        "ring": lambda found: {
            "ring.9.bits": found["differing_answers"],
            "ring.9.hidden": percent(found["hidden_share"]),
            "ring.9.slower": found["slower_percent"],
        },
    }
    about = {"torch": torch.__version__, "command": " ".join(sys.argv)}
    record = record_parts(arguments.json, {}, list(parts), lambda part: parts[part](), about, claimed)
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
