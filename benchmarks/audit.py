"""Is cheating told from rounding, at which cost?

detect    three architectures (`audit_models`) x three dtypes, each a ring of three stages in one process. Limits
          follow from honest runs (all at once, in small chunks, two threads, two-way tensor parallel); false alarms
          are counted on others. Then every cheat of `audit_cheats`: of how many requests 64 tokens suffice, beside
          TOPLOC's own thresholds on the same numbers. The auditor computes in float32 on one thread.
games     500 toy rings of five with a cheat and a lying auditor, and as many without a cheat (tests/broker/audit_games)
overhead  a ring with receipts beside the same without, in turn (`audit_overhead`)
power     the share of windows of 32 .. 256 tokens that are caught, for int8, FP8 KV and noise of a given size

    python benchmarks/audit.py detect --model tiny --dtype bfloat16 --json FILE      one part at a time, or all
    python benchmarks/audit.py power --json FILE
    python benchmarks/audit.py games --json FILE
    python benchmarks/audit.py overhead --json FILE
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks import audit_overhead
from benchmarks.audit_cheats import CHEATS, MIDDLE, Bench
from benchmarks.audit_detect import (
    WITHIN,
    caught,
    false_alarms,
    honest,
    limits_of,
    look,
    power,
    requests_of,
    shares,
)
from benchmarks.audit_models import prepare
from benchmarks.audit_rings import serve
from benchmarks.records import record_parts
from muster.verify.fingerprint import RESOLUTION
from tests.broker.audit_games import Game

MODELS = ("tiny", "gemma3", "mixtral")
DTYPES = ("bfloat16", "float16", "float32")
NEW = 130
MOST_REQUESTS = 600
"""Of one game."""
HONEST_REQUESTS = 40
LENGTHS = (32, 64, 128, 256)
NOISES = (0.25, 0.5, 1.0, 2.0)
"""As parts of the limit of one block."""


def detect(part: str, count: int, trials: int) -> dict[str, Any]:
    _, name, dtype = part.split("-")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(name, prepare(Path(folder))[name], Path(folder), getattr(torch, dtype))
        limits = limits_of(honest(bench, 1, count, NEW))
        alarms = false_alarms(honest(bench, 2, count, NEW), limits)
        print(part, alarms, [one.drift[0] for one in limits], flush=True)
        return {
            "limits": [{"drift": one.drift, "windows": one.windows, "margin": one.margin} for one in limits],
            "honest": alarms | {"share_between": shares(alarms["rejected"], alarms["fingerprints"])},
            "cheats": caught(bench, limits, trials),
        }


def figures(found: Mapping[str, Any]) -> dict[str, float]:
    """What is claimed of one model in one dtype."""
    must = [one for one in found["cheats"] if one["must"]]
    return {
        "proof.1.honest": found["honest"]["rejected"],
        "proof.1.fingerprints": found["honest"]["fingerprints"],
        "proof.1.caught": min(100.0 * one["caught"] / one["requests"] for one in must),
        "proof.1.ways": sum(one["caught"] == one["requests"] for one in must),
        "proof.1.toploc": sum(one["toploc_caught"] == one["requests"] for one in must),
    }


def curves(part: str, count: int) -> dict[str, Any]:
    """In bfloat16, the hardest: how many tokens the small cheats need."""
    _, name = part.split("-")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(name, prepare(Path(folder))[name], Path(folder), torch.bfloat16)
        limits = limits_of(honest(bench, 1, count, 2 * NEW))
        found: dict[str, Any] = {}
        requests = requests_of(name, 6, 257, 78, prompt=32)
        for cheat in CHEATS:
            if not cheat.must:
                seen = [look(ran, bench, cheat.stage, only_new=256) for ran in cheat.run(bench, requests)]
                found[cheat.name] = power(seen, limits[cheat.stage], LENGTHS)
                print(part, cheat.name, found[cheat.name], flush=True)
        rans = serve(bench.stages(), requests)
        for size in NOISES:
            noisy = [ran.with_noise(MIDDLE, size * limits[MIDDLE].drift[0]) for ran in rans]
            seen = [look(ran, bench, MIDDLE, only_new=256) for ran in noisy]
            found[f"noise of {size:g} of the limit"] = power(seen, limits[MIDDLE], LENGTHS)
            print(part, size, found[f"noise of {size:g} of the limit"], flush=True)
        return {"limit": limits[MIDDLE].drift[0], "resolution": RESOLUTION, "curves": found}


def games(count: int) -> dict[str, Any]:
    ended: dict[str, int] = {}
    requests = []
    for seed in range(count):
        game = Game(seed, trusted=seed % 2 == 0)
        found = [(one.node, one.kind) for one in game.play(MOST_REQUESTS)]
        requests.append(len(game.served))
        how = "cheat banned" if found == [(game.guilty, "ban")] else f"{game.way}, {game.lie}: {found}"
        ended[how] = ended.get(how, 0) + 1
    honest = [Game(count + seed, cheats=False, trusted=seed % 2 == 0) for seed in range(count)]
    sanctioned = sum(bool(game.play(HONEST_REQUESTS)) for game in honest)
    print(ended, sanctioned, flush=True)
    return {
        "games": count,
        "ended": ended,
        "requests_until_banned": {"median": sorted(requests)[count // 2], "most": max(requests)},
        "honest_games": count,
        "honest_sanctioned": sanctioned,
    }


def blamed(found: Mapping[str, Any]) -> dict[str, float]:
    wrong = found["games"] - found["ended"].get("cheat banned", 0)
    return {"proof.2.blamed": wrong, "proof.2.honest": found["honest_sanctioned"]}


def costs(pairs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return audit_overhead.overhead(Path(folder), pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("detect", "power", "games", "overhead"))
    parser.add_argument("--model", choices=MODELS)
    parser.add_argument("--dtype", choices=DTYPES)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--games", type=int, default=500)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    models = [asked.model] if asked.model else MODELS
    if asked.what == "games":
        parts, run = ["games"], lambda part: games(asked.games)
    elif asked.what == "overhead":
        parts, run = ["overhead"], lambda part: costs(asked.pairs)
    elif asked.what == "power":
        parts, run = [f"power-{name}" for name in models], lambda part: curves(part, asked.requests // 2)
    else:
        parts = [f"detect-{name}-{dtype}" for name in models for dtype in ([asked.dtype] if asked.dtype else DTYPES)]
        run = lambda part: detect(part, asked.requests, asked.trials)  # noqa: E731
    about: Mapping[str, str] = {"tokens": f"caught within {WITHIN} generated tokens"}
    claimed = {"detect-tiny-bfloat16": figures, "overhead": audit_overhead.claimed, "games": blamed}
    record_parts(asked.json, {"benchmark": "audit"}, parts, run, about, claimed)


if __name__ == "__main__":
    main()
