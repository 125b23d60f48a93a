"""What a stage does for a block of sequences, and how large its parts are: bytes and FLOPs. Knows no machine.

Weights come in *groups* of which a step wants equally much: those that every step reads (layers and head), routed
experts from the most wanted to the least, and an embedding, of which a step wants a few rows. Of an expert that each
token takes with probability q, a step of t tokens wants the bytes with probability 1 - (1 - q)^t.

How unequally experts are wanted is assumed, and said: the i-th most wanted in proportion to i^-skew. With 0 all are
wanted alike, which is the least that can be gained by keeping some of them on the device.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from muster.cost.memory import dtype_bytes
from muster.cost.work import causal_pairs, decode
from muster.spec.model_shape import ModelShape

EXPERT_GROUPS = 8
"""At most; with a skew of 0 there is one."""


@dataclass(frozen=True, slots=True)
class WeightGroup:
    """Weights of a stage that a step wants alike, in all of its layers together."""

    name: str
    nbytes: float
    largest_layer: float
    """Of these bytes, in one layer; the head comes in pieces no larger."""
    wanted_by_token: float
    """Probability that one token wants a byte of it: 1 is read by every step."""
    piece: float = 1.0
    """Share of one layer's bytes that a buffer must hold at once."""

    def wanted(self, tokens: float) -> float:
        """Share that a step of so many tokens reads."""
        return 1.0 - float((1.0 - self.wanted_by_token) ** tokens)


@dataclass(frozen=True, slots=True)
class StageSizes:
    """A stage's layers [first, last) of a model, counted."""

    layers: int
    groups: tuple[WeightGroup, ...]
    flops_per_token: float
    head_flops: float
    """Of a token that is sampled; 0 on a stage without the head."""
    cache_bytes: float
    """Of a token, in all layers."""
    largest_cache: float
    """Of a token, in one layer."""
    windows: tuple[tuple[int, float, float], ...]
    """(window, cache bytes of a token, FLOPs of a pair), summed over the layers with that window."""
    hidden_bytes: float
    """Of a token between two layers."""

    @property
    def weight_bytes(self) -> float:
        return sum(group.nbytes for group in self.groups)

    def read_bytes(self, tokens: float) -> float:
        """Of weights, by a step of so many tokens."""
        return sum(group.nbytes * group.wanted(tokens) for group in self.groups)

    def seen_bytes(self, context: float) -> float:
        """Of cache that one token sees."""
        return sum(cache * (min(context, window) if window else context) for window, cache, _ in self.windows)

    def seen_flops(self, context: float) -> float:
        return sum(flops * (min(context, window) if window else context) for window, _, flops in self.windows)

    def prompt_flops(self, tokens: int) -> float:
        """Of attention over one prompt."""
        return sum(flops * causal_pairs(tokens, window) for window, _, flops in self.windows)


_EXPERT_PIECES = 8
"""Experts whose bytes buffers hold at once, in flight or in use: they come one by one."""


@lru_cache(maxsize=4096)
def stage_sizes(shape: ModelShape, first: int, last: int, skew: float = 0.0) -> StageSizes:
    experts = sum(shape.expert_bytes[first:last]) if shape.num_experts else 0
    per_layer = shape.expert_bytes[first:last] or (0,) * (last - first)
    own = [layer - its for layer, its in zip(shape.layer_bytes[first:last], per_layer, strict=True)]
    groups = [WeightGroup("every step", shape.read_bytes(first, last) - experts, max(own), 1.0)]
    if experts:
        groups += _experts(shape, float(experts), float(max(per_layer)), skew)
    rows = shape.weight_bytes(first, last) - shape.read_bytes(first, last)
    if rows > 0:
        groups.append(WeightGroup("embedding", float(rows), 0.0, 0.0))
    return StageSizes(
        layers=last - first,
        groups=tuple(groups),
        flops_per_token=sum(shape.layer_flops_per_token[first:last]),
        head_flops=shape.head_flops_per_token if last == shape.num_layers else 0,
        cache_bytes=shape.cache_bytes_per_token(first, last),
        largest_cache=max(shape.kv_bytes_per_token[first:last]),
        windows=_by_window(shape, first, last),
        hidden_bytes=shape.hidden_size * dtype_bytes(shape.dtype),
    )


def _experts(shape: ModelShape, nbytes: float, largest_layer: float, skew: float) -> list[WeightGroup]:
    count = shape.num_experts
    wanted = np.arange(1, count + 1, dtype=float) ** -skew
    each = _chosen(wanted / wanted.sum(), shape.experts_per_token)
    parts = np.array_split(each, min(EXPERT_GROUPS, count) if skew else 1)
    return [
        WeightGroup(
            name="experts" if len(parts) == 1 else f"experts, part {number} of {len(parts)} by use",
            nbytes=nbytes * len(part) / count,
            largest_layer=largest_layer * len(part) / count,
            wanted_by_token=float(np.mean(part)),
            piece=min(1.0, _EXPERT_PIECES / len(part) / len(parts)),
        )
        for number, part in enumerate(parts, 1)
    ]


def _chosen(wanted: NDArray[np.float64], chosen: int) -> NDArray[np.float64]:
    """Probability that each is among the `chosen` of a token, none above 1."""
    each: NDArray[np.float64] = np.minimum(1.0, chosen * wanted)
    for _ in range(8):
        free = each < 1
        if not free.any():
            break
        each[free] = np.minimum(1.0, each[free] * (chosen - (~free).sum()) / each[free].sum())
    return each


def _by_window(shape: ModelShape, first: int, last: int) -> tuple[tuple[int, float, float], ...]:
    sums: dict[int, tuple[float, float]] = {}
    for layer in range(first, last):
        window = shape.windows[layer] if shape.windows else 0
        cache, flops = sums.get(window, (0.0, 0.0))
        pair = decode(shape, layer, layer + 1, sequences=1, context=1).attention_flops
        sums[window] = cache + shape.kv_bytes_per_token[layer], flops + pair
    return tuple((window, *both) for window, both in sums.items())
