"""How much a stage loses by its simple rule of which whole tensors stay in memory (`offload/choice`), against the best.

The best is a mixed-integer program (HiGHS): layers are alike, so what counts is how many of them keep which of their
tensors. A layer takes the longer of computing and of fetching what it lacks, and two buffers hold what any layer lacks:

    min  sum over patterns of count x max(compute, lacking bytes / rate)
    with counts that make all layers;  kept bytes + 2 x the most that a layer lacks <= memory

The rule gets the largest share with which it fits the same memory. Computing is set to take as long as fetching would
on average, which is where unequal layers cost most.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from muster.offload.choice import kept

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Of a model's layers that find room beside two whole layers as buffers."""
MODELS = {
    "llama-2-7b": (32, 4096, 4096, 11008),
    "llama-3-70b": (80, 8192, 1024, 28672),
    "qwen3-8b": (36, 4096, 1024, 12288),
}
"""Layers, hidden size, width of keys, width of the MLP."""


def tensors(hidden: int, keys: int, inner: int) -> list[tuple[str, int]]:
    """Names and bytes of one layer's large matrices, in 16 bits."""
    sizes = {"q": hidden**2, "k": hidden * keys, "v": hidden * keys, "o": hidden**2}
    sizes |= dict.fromkeys(("gate", "up", "down"), hidden * inner)
    return [(name, 2 * size) for name, size in sizes.items()]


def compared() -> list[dict[str, Any]]:
    rows = []
    for model, (layers, *widths) in MODELS.items():
        layer = tensors(*widths)
        nbytes = sum(size for _, size in layer)
        for share in SHARES:
            memory = share * layers * nbytes + 2 * nbytes
            compute = (1 - share) * nbytes
            best, rule = best_bytes(layer, layers, memory, compute), by_rule(layer, layers, memory, compute)
            rows.append({"model": model, "share": share, "best": best, "rule": rule, "lost": rule / best - 1})
    return rows


def best_bytes(layer: Sequence[tuple[str, int]], layers: int, memory: float, compute: float) -> float:
    """Of the least time, as bytes that the disk would read in it."""
    patterns = np.array(sorted(set(_kept_bytes(layer))))
    nbytes = sum(size for _, size in layer)
    lacking = nbytes - patterns
    found = []
    for limit in lacking:
        able = lacking <= limit
        times = np.maximum(compute, lacking[able])
        solved = milp(
            times,
            constraints=[
                LinearConstraint(np.ones(able.sum()), layers, layers),
                LinearConstraint(patterns[able] / nbytes, -np.inf, (memory - 2 * limit) / nbytes),
            ],
            integrality=np.ones(able.sum()),
            bounds=Bounds(0, layers),
            options={"mip_rel_gap": 1e-4, "time_limit": 5.0},
        )
        if solved.x is not None:
            found.append(float(times @ np.round(solved.x)))
    return min(found)


def _kept_bytes(layer: Sequence[tuple[str, int]]) -> Iterator[int]:
    """Of every choice of tensors."""
    sizes = Counter(size for _, size in layer)
    for counts in product(*(range(many + 1) for many in sizes.values())):
        yield sum(count * size for count, size in zip(counts, sizes, strict=True))


def by_rule(layer: Sequence[tuple[str, int]], layers: int, memory: float, compute: float) -> float:
    """With the largest share that fits, by halves."""
    named = [[(f"{index}.{name}", size) for name, size in layer] for index in range(layers)]
    low, high, best = 0.0, 1.0, float("inf")
    for _ in range(20):
        share = (low + high) / 2
        stays = kept(named, share)
        lacking = [sum(size for name, size in one if name not in stays) for one in named]
        held = layers * sum(size for _, size in layer) - sum(lacking)
        if held + 2 * max(lacking) <= memory:
            low, best = share, min(best, sum(max(compute, one) for one in lacking))
        else:
            high = share
    return best
