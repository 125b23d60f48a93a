"""One stream over four far stages, with and without guesses: tokens per second, tokens per trip, the same text.

alone     one stream at a time over four stages of `tiny` in float32, in this process. Between two stages, and from the
          last to the first, every message waits a quarter of the round trip; one stage computes at a time, which is all
          that one stream could ask of four machines. Plain, with n-grams alone, and with a model of a million
          parameters beside the first stage (`--draft`), greedy and at temperature 0.7. The texts are compared token by
          token. What a guesser has learned of its own worth at one delay is not told at the next
load      as many streams as fill the steps in flight, without delay: tokens per second with guesses over those without

    python benchmarks/speculate.py --draft FOLDER [--part alone] [--small] [--json FILE]

The draft: `tools/train_tiny.py --teacher`, see there. Passes of one stream take turns on one core, so a fast machine is
as good as four. What is claimed is the ratio of two runs that differ in guesses alone.
"""

import argparse
import heapq
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.records import record_parts
from muster.lab.prompts import excerpts
from muster.model.load import load_stage
from muster.model.source import resolve
from muster.model.stage import Stage
from muster.model.weights import open_directory
from muster.serve.guess.draft import DraftGuesser
from muster.serve.guess.guesser import Guesser
from muster.serve.guess.guessing import Guessing
from muster.serve.guess.ngrams import NgramGuesser
from muster.serve.local_ring import LocalRing
from muster.serve.options import EngineOptions
from muster.spec.request import Request
from muster.spec.sampling import Sampling
from muster.text.tokenizer import Tokenizer, load_tokenizer

CUTS = (0, 2, 3, 5, 6)
PAGES, PAGE_SIZE, MAX_CONTEXT = 512, 16, 1024
ROUND_TRIPS_S = (0.0, 0.05, 0.1, 0.23)
TEMPERATURES = (0.0, 0.7)
TOKENS = 96
REPEATING = "".join(
    f"    def test_{name}(self):\n        self.assertEqual(self.parse('{name}'), '{name}')\n\n"
    for name in ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "alpha", "beta", "gamma")
)
PUBLISHED_TOKENS_PER_S, PUBLISHED_ROUND_TRIP_S = 18.1, 0.23
"""The best that was found for a 7B over two far machines (SwarmLLM v0.3.249-251, October 2026)."""


@cache
def tokenizer() -> Tokenizer:
    return load_tokenizer(resolve("tiny"))


@cache
def stages() -> tuple[Stage, ...]:
    weights = open_directory(resolve("tiny"))
    return tuple(load_stage(weights, first, last, torch.float32, torch.device("cpu")) for first, last in pairwise(CUTS))


@cache
def draft_stage(folder: str) -> Stage:
    weights = open_directory(Path(folder))
    return load_stage(
        weights, 0, json.loads(weights.config_json)["num_hidden_layers"], torch.float32, torch.device("cpu")
    )


def guessers(kind: str, draft: str) -> list[Guesser]:
    made: list[Guesser] = [NgramGuesser()]
    if kind == "draft":
        stage = draft_stage(draft)
        made.append(DraftGuesser(stage, stage.new_cache(PAGES, PAGE_SIZE)))
    return made


class FarRing:
    """A `LocalRing` whose messages take their time. Only one thread computes."""

    def __init__(self, hop_s: float, guessing: Guessing | None, num_microbatches: int) -> None:
        options = EngineOptions(
            MAX_CONTEXT, num_microbatches=num_microbatches, max_microbatches=num_microbatches, max_batch=8
        )
        caches = [stage.new_cache(PAGES, PAGE_SIZE) for stage in stages()]
        self.ring: LocalRing[Any] = LocalRing(stages(), caches, options, guessing=guessing)
        self._hop_s = hop_s
        self._due: list[tuple[float, int, int]] = []
        """When, how many before it, and which hop."""
        self._count = 0

    def answers(self, requests: Sequence[Request]) -> dict[str, list[int]]:
        tokens: dict[str, list[int]] = {one.id: [] for one in requests}
        for one in requests:
            self.ring.engine.submit(one)
        while self.ring.busy:
            for progress in self._work():
                tokens[progress.request_id] += [sampled.token for sampled in progress.tokens]
        return tokens

    def _work(self) -> tuple[Any, ...]:
        if self.ring.engine.has_work:
            before = self.ring.engine.in_flight
            progress = self.ring.step()
            if self.ring.engine.in_flight > before:
                self._send(0)
            return progress
        if not self._due:
            return ()
        at_s, _, hop = heapq.heappop(self._due)
        time.sleep(max(0.0, at_s - time.perf_counter()))
        progress = self.ring.move(hop)
        if hop < self.ring.num_hops - 1:
            self._send(hop + 1)
        return progress

    def _send(self, hop: int) -> None:
        self._count += 1
        heapq.heappush(self._due, (time.perf_counter() + self._hop_s, self._count, hop))


def prompts(small: bool) -> dict[str, str]:
    code = dict(list(excerpts().items())[: 1 if small else 3])
    return {**code, "repeating": REPEATING}


def run_alone(kind: str, draft: str, round_trip_s: float, temperature: float, small: bool) -> dict[str, Any]:
    """Every prompt once, one after the other."""
    guessing = Guessing(guessers(kind, draft), time.perf_counter) if kind != "plain" else None
    far = FarRing(round_trip_s / (len(CUTS) - 1), guessing, num_microbatches=4)
    far.answers([Request("warm", tuple(tokenizer().encode("import os\n")), Sampling(max_tokens=4, temperature=0.0))])
    found = {}
    for index, (name, text) in enumerate(prompts(small).items()):
        tokens = 32 if small else TOKENS
        one = Request(
            name,
            tuple(tokenizer().encode(text)),
            Sampling(max_tokens=tokens, temperature=temperature, seed=index, ignore_eos=True),
        )
        steps, began_s = far.ring.engine.stats().steps, time.perf_counter()
        answer = far.answers([one])[name]
        wall_s = time.perf_counter() - began_s
        trips = far.ring.engine.stats().steps - steps
        found[name] = {
            "tokens": answer,
            "tokens_per_s": round(len(answer) / wall_s, 3),
            "tokens_per_trip": round(len(answer) / trips, 3),
        }
    counts = far.ring.engine.guess_counts()
    return {"prompts": found, "guessed": counts.guessed, "accepted": counts.accepted}


def measure_alone(draft: str, small: bool) -> dict[str, Any]:
    rows = []
    for round_trip_s in ROUND_TRIPS_S:
        for temperature in TEMPERATURES:
            kinds = {
                kind: run_alone(kind, draft, round_trip_s, temperature, small)
                for kind in ("plain", "n-grams", *(["draft"] if draft else []))
            }
            rows.append({"round_trip_s": round_trip_s, "temperature": temperature, **_compared(kinds)})
            print({key: value for key, value in rows[-1].items() if key != "kinds"}, file=sys.stderr)
    return {"rows": rows, "tokens": 32 if small else TOKENS}


def _compared(kinds: dict[str, Any]) -> dict[str, Any]:
    """Gains over plain by kind of prompt. Raises `AssertionError` where a text differs."""
    plain = kinds["plain"]["prompts"]
    gains: dict[str, Any] = {}
    for kind, run in kinds.items():
        for name, one in run["prompts"].items():
            assert one["tokens"] == plain[name]["tokens"], f"{kind} changed the text of {name}"
        ratios = {name: one["tokens_per_s"] / plain[name]["tokens_per_s"] for name, one in run["prompts"].items()}
        code = [ratio for name, ratio in ratios.items() if name != "repeating"]
        gains[kind] = {
            "code": round(statistics.geometric_mean(code), 3),
            "repeating": round(ratios["repeating"], 3),
            "worst": round(min(ratios.values()), 3),
            "tokens_per_trip_of_code": round(
                statistics.mean(one["tokens_per_trip"] for name, one in run["prompts"].items() if name != "repeating"),
                3,
            ),
        }
    for run in kinds.values():
        for one in run["prompts"].values():
            one["text"] = tokenizer().decode(one.pop("tokens"))
    return {"gains": gains, "kinds": kinds}


def measure_load(draft: str, small: bool) -> dict[str, Any]:
    """Pairs in turns; the median of their ratios."""
    text = next(iter(excerpts().values()))
    prompt = tuple(tokenizer().encode(text))
    requests = [
        Request(f"r{i}", (*prompt, i), Sampling(max_tokens=32 if small else 64, seed=i, ignore_eos=True))
        for i in range(8 if small else 24)
    ]
    pairs = []
    for _ in range(2 if small else 7):
        speeds, texts = {}, {}
        for kind in ("plain", "guesses"):
            guessing = Guessing(guessers("draft" if draft else "", draft), time.perf_counter)
            far = FarRing(0.0, guessing if kind == "guesses" else None, num_microbatches=4)
            began_s = time.process_time()
            texts[kind] = far.answers(requests)
            speeds[kind] = sum(map(len, texts[kind].values())) / (time.process_time() - began_s)
        assert texts["plain"] == texts["guesses"], "guesses changed a text"
        pairs.append(speeds)
    return {"pairs": pairs, "ratio": round(statistics.median(p["guesses"] / p["plain"] for p in pairs), 4)}


PARTS: dict[str, Callable[[str, bool], Any]] = {"alone": measure_alone, "load": measure_load}


def claimed_alone(result: dict[str, Any]) -> dict[str, float]:
    far = [row for row in result["rows"] if row["round_trip_s"] == ROUND_TRIPS_S[-1]]
    worst = min(gains["worst"] for row in result["rows"] for gains in row["gains"].values())
    found = {
        "ring.6.ngrams": min(row["gains"]["n-grams"]["repeating"] for row in far),
        "ring.6.slower": round(100 * (1 - worst), 2),
        "ring.6.same": 0.0,
    }
    if all("draft" in row["gains"] for row in far):
        found["ring.6.code"] = min(row["gains"]["draft"]["code"] for row in far)
        per_trip = min(row["gains"]["draft"]["tokens_per_trip_of_code"] for row in far)
        found["ring.6.published"] = round(per_trip / PUBLISHED_ROUND_TRIP_S / PUBLISHED_TOKENS_PER_S, 3)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draft", default="", help="the folder of the small model; without it only n-grams guess")
    parser.add_argument("--part", choices=PARTS, action="append", default=None)
    parser.add_argument("--small", action="store_true", help="few and short texts: to see that it works")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    record_parts(
        arguments.json,
        {"benchmark": "speculate"},
        arguments.part or list(PARTS),
        lambda part: PARTS[part](arguments.draft, arguments.small),
        {"size": "small" if arguments.small else "full"},
        {"alone": claimed_alone, "load": lambda result: {"ring.6.load": round(100 * (1 - result["ratio"]), 2)}},
    )


if __name__ == "__main__":
    main()
