"""The detection table of one model: limits from honest variants, false alarms on others, every cheat, TOPLOC beside."""

import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import muster

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.audit_cheats import CHEATS, LAST, Bench
from benchmarks.audit_models import STAGES, TINY
from benchmarks.audit_rings import Island, Ran, claims_and_truth, parts_of, serve
from muster.serve.redraw import redraw
from muster.spec.receipt import TOKENS_PER_BLOCK
from muster.spec.request import Request
from muster.spec.sampling import Sampling
from muster.text.tokenizer import load_tokenizer
from muster.verify.calibrating import calibrated, confidence, margin_limit, surprise_limit
from muster.verify.fingerprint import drift, key_of, opened, places, taken
from muster.verify.judging import judge, worst_drift
from muster.verify.limits import DriftLimits, block_means

FALSE_ALARMS = 1e-5
CHUNKS = (256, 96, 40)
"""Of the audits."""
WITHIN = 64
"""Tokens in which a cheat is to be caught."""
TOPLOC_K, TOPLOC_MEAN, TOPLOC_MEDIAN, TOPLOC_EXPONENTS = 128, 10, 8, 38
"""Its own thresholds (toploc-experiments): rejected where any is exceeded."""


@dataclass
class Seen:
    """One stage of one request, claimed and computed again."""

    drift_T: Any
    margins_S: Any = None
    surprise_S: Any = None
    toploc: tuple[bool, ...] = ()
    """Of each block: whether TOPLOC's thresholds reject it."""


def requests_of(name: str, count: int, new: int, seed: int, prompt: int = 64) -> list[Request]:
    generator = random.Random(seed)
    lengths = [prompt + 3 * index for index in range(count)]
    return [
        Request(
            f"r{seed}-{index}",
            tuple(
                _text(generator, length) if name == "tiny" else [generator.randrange(1, 1024) for _ in range(length)]
            ),
            Sampling(max_tokens=new, temperature=1.0, seed=1000 * seed + index, ignore_eos=True),
        )
        for index, length in enumerate(lengths)
    ]


@lru_cache(maxsize=1)
def _texts() -> list[int]:
    """Tokens of Python code that `tiny` was not trained on: this program's own."""
    tokenizer = load_tokenizer(TINY)
    try:
        files = sorted((Path(muster.__file__).parent / "broker").glob("*.py"))
        return tokenizer.encode("\n".join(file.read_text() for file in files)[:60_000])
    finally:
        tokenizer.close()


def _text(generator: random.Random, length: int) -> list[int]:
    tokens = _texts()
    start = generator.randrange(len(tokens) - length)
    return tokens[start : start + length]


def look(ran: Ran, bench: Bench, stage: int, only_new: int = 0, chunk: int = 256, in_prompt: bool = False) -> Seen:
    """`only_new`: so many tokens behind the prompt, or of its beginning, and no others."""
    claimed, truth = claims_and_truth(ran, bench.path, stage, chunk=chunk)
    begin = ran.first_sampled if stage == LAST else 0
    positions = np.arange(begin, begin + len(claimed))
    kept = slice(0, len(claimed))
    if only_new:
        start = 0 if stage == LAST or in_prompt else len(ran.request.prompt)
        kept = slice(start, start + only_new)
    key, width = key_of(ran.request.id, STAGES[stage][1]), truth.shape[1]
    dtype = "float32" if stage == LAST else str(bench.dtype).removeprefix("torch.")
    where = places(key, positions, width)
    values = opened(taken(claimed, where), dtype)
    seen = Seen(drift(values, truth, where, dtype)[kept], toploc=toploc(claimed[kept], truth[kept], bench.dtype))
    if stage == LAST:
        tokens = ran.tokens[ran.first_sampled + 1 :]
        drawn = redraw(truth, tokens, ran.request.sampling, ran.first_sampled + 1)
        seen.margins_S, seen.surprise_S = drawn.margins_S[kept], drawn.surprise_S[kept]
    return seen


def toploc(claimed: Tensor, truth: Tensor, dtype: torch.dtype) -> tuple[bool, ...]:
    """The metrics of TOPLOC (2501.16007, section 4) on the same numbers, without the polynomial that packs them."""
    verdicts = []
    for start in range(0, len(claimed) // TOKENS_PER_BLOCK * TOKENS_PER_BLOCK, TOKENS_PER_BLOCK):
        a, b = (x[start : start + TOKENS_PER_BLOCK].to(torch.bfloat16).flatten() for x in (claimed, truth))
        top_a, top_b = (x.float().abs().topk(TOPLOC_K).indices for x in (a, b))
        bits_a, bits_b = (x[top_b].view(torch.int16).int() & 0xFFFF for x in (a, b))
        known = torch.isin(top_b, top_a)
        same = known & ((bits_a >> 7) == (bits_b >> 7))
        apart = ((bits_a & 0x7F) - (bits_b & 0x7F)).abs()[same].double()
        mean, median = (float(apart.mean()), float(apart.median())) if len(apart) else (np.inf, np.inf)
        wrong = int((~same).sum())
        verdicts.append(wrong > TOPLOC_EXPONENTS or mean > TOPLOC_MEAN or median > TOPLOC_MEDIAN)
    return tuple(verdicts)


def honest_runs(bench: Bench, seed: int, count: int, new: int) -> list[tuple[str, Callable[[], list[Ran]]]]:
    """Name and run of every honest variant in this dtype."""

    def requests(variant: int, some: int) -> list[Request]:
        return requests_of(bench.name, some, new if some > 4 else new // 4, seed + 10 * variant)

    def islands() -> list[Any]:
        return [Island(parts_of(bench.path, first, last, bench.dtype, 2)) for first, last in STAGES]

    def threads(count: int, run: Callable[[], list[Ran]]) -> list[Ran]:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            return run()
        finally:
            torch.set_num_threads(before)

    few = max(2, count // 6)
    return [
        ("all at once", lambda: serve(bench.stages(), requests(0, count))),
        ("chunks of 24", lambda: serve(bench.stages(), requests(1, count // 2), prefill_tokens=24, max_batch=3)),
        ("two threads", lambda: threads(2, lambda: serve(bench.stages(), requests(2, few)))),
        ("two-way tensor parallel", lambda: serve(islands(), requests(3, few))),
    ]


def honest(bench: Bench, seed: int, count: int, new: int) -> dict[str, list[list[Seen]]]:
    """By variant, by stage: of every request."""
    found = {}
    for name, run in honest_runs(bench, seed, count, new):
        rans = run()
        found[name] = [
            [look(ran, bench, stage, chunk=chunk) for ran in rans for chunk in CHUNKS] for stage in range(len(STAGES))
        ]
    return found


def limits_of(runs: dict[str, list[list[Seen]]]) -> list[DriftLimits]:
    """Of each stage."""
    found = []
    for stage in range(len(STAGES)):
        seen = [one for variant in runs.values() for one in variant[stage]]
        limits = calibrated([block_means(one.drift_T) for one in seen], FALSE_ALARMS)
        if stage == LAST:
            margins = np.concatenate([one.margins_S for one in seen])
            sums = np.array([one.surprise_S.sum() / len(one.surprise_S) ** 0.5 for one in seen])
            limits = DriftLimits(
                limits.drift,
                FALSE_ALARMS,
                limits.windows,
                margin_limit(margins, FALSE_ALARMS, WITHIN),
                surprise_limit(sums, FALSE_ALARMS),
            )
        found.append(limits)
    return found


def false_alarms(runs: dict[str, list[list[Seen]]], limits: Sequence[DriftLimits]) -> dict[str, Any]:
    """On honest runs that the limits know nothing of."""
    fingerprints = rejected = requests = 0
    for variant in runs.values():
        for stage, seen in enumerate(variant):
            for one in seen:
                means = block_means(one.drift_T)
                fingerprints += len(means)
                rejected += int((means > limits[stage].drift[0]).sum())
                requests += not judge(one.drift_T, limits[stage], one.margins_S, one.surprise_S).passes
    return {"fingerprints": fingerprints, "rejected": rejected, "requests_rejected": requests}


def caught(bench: Bench, limits: Sequence[DriftLimits], count: int) -> list[dict[str, Any]]:
    rows = []
    for cheat in CHEATS:
        rans = cheat.run(bench, requests_of(bench.name, count, WITHIN + 1, 77))
        seen = [look(ran, bench, cheat.stage, only_new=WITHIN, in_prompt=cheat.in_prompt) for ran in rans]
        verdicts = [judge(one.drift_T, limits[cheat.stage], one.margins_S, one.surprise_S) for one in seen]
        rows.append(
            {
                "cheat": cheat.name,
                "stage": cheat.stage,
                "must": cheat.must,
                "requests": len(seen),
                "caught": sum(not one.passes for one in verdicts),
                "drift": round(float(np.median([one.drift for one in verdicts])), 3),
                "margin": round(float(np.median([one.margin for one in verdicts])), 3),
                "surprise": round(float(np.median([one.surprise for one in verdicts])), 3),
                "toploc_caught": sum(any(one.toploc) for one in seen),
            }
        )
        print(bench.name, rows[-1], flush=True)
    return rows


def power(seen: Sequence[Seen], limits: DriftLimits, lengths: Sequence[int]) -> dict[str, float]:
    """The share of windows of so many tokens that are caught."""
    found = {}
    for tokens in lengths:
        windows = [(one, start) for one in seen for start in range(0, len(one.drift_T) - tokens + 1, tokens)]
        hits = 0
        for one, start in windows:
            cut = slice(start, start + tokens)
            if one.margins_S is None:
                hits += worst_drift(block_means(one.drift_T[cut]), limits) > 1
            else:
                hits += not judge(one.drift_T[cut], limits, one.margins_S[cut], one.surprise_S[cut]).passes
        found[str(tokens)] = hits / max(1, len(windows))
    return found


def shares(rejected: int, of: int) -> list[float]:
    return [float(f"{share:.3g}") for share in confidence(rejected, of)]
