"""Seconds of a block's steps on a stage that keeps a part elsewhere, affine in the shares. Pure arithmetic.

A block of K microbatches of b sequences passes each layer. Six actors work on it (`ACTORS`); each one's seconds are a
sum over the stage's layers, because every layer has the same shares:

    compute         for each microbatch of each layer: starting it, then the longer of multiplying and of reading its
                    weights through the device's memory; attention over cache on the device at that memory's rate
    host_attention  attention over cache in host memory, at the rate measured there, and handing it over
    to_device       weights that are not on the device, once per step for the whole block; with attention on the device
                    also the cache; else what attention gave; hidden states
    from_device     new keys and values (and queries, for attention on the host), hidden states
    read, write     the same of what lies on disk

**What is assumed to overlap.** Weights of the next layer come while this one is computed, sliced over the whole block,
with an event per buffer and no barrier; so do cache and hidden states of the next microbatch. Whatever two actors do at
the same time takes the longer, plus the share of the lesser that was measured not to hide (`copies_overlap`,
`disk_overlap`, `attention_overlap` of `TierRates`). Attention on the host hides behind computing of *other*
microbatches only, so of K microbatches (K-1)/K of it can. Between two steps nothing is hidden but the loads: `step_s`.
FlexGen's shipped code overlaps less (its barrier after every square makes the first microbatch wait for the whole
load); its model is in `flexgen`.

    seconds(t; a1, a2, …): t := compute, then t := t + a - overlap x min(t, a) for each other actor
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from muster.cost.offload.load import StageSizes
from muster.cost.offload.rates import matmul_flops_per_s
from muster.spec.plan import Order
from muster.spec.tiers import TierRates

Floats = NDArray[np.float64]
ACTORS = ("compute", "host_attention", "to_device", "from_device", "read", "write")
_COMPUTE, _ATTENTION, _TO, _FROM, _READ, _WRITE = range(6)


@dataclass(frozen=True, slots=True)
class BlockSize:
    """How a block is cut, and what each of its sequences is."""

    microbatch: int
    num_microbatches: int
    prompt: int
    """Tokens of each sequence's prompt, likewise `answer`."""
    answer: int
    order: Order = "zigzag"
    attention: Literal["device", "host"] = "host"
    prompt_tokens: int = 512
    """Most that pass a layer at once."""
    blocks: int = 1
    """In flight at once: one for each stage of a pipeline."""

    @property
    def sequences(self) -> int:
        return self.microbatch * self.num_microbatches

    @property
    def context(self) -> float:
        """That a token sees on average."""
        return self.prompt + self.answer / 2

    @property
    def joining(self) -> float:
        """Prompts that one pass over the weights takes in."""
        if self.order == "diagonal":
            return self.sequences / self.answer
        return float(self.sequences if self.order == "zigzag" else self.microbatch)


def places(sizes: StageSizes) -> dict[str, slice]:
    """Of each part's three shares (device, host, disk) in x: the groups by name, `cache`, `hidden`."""
    names = [group.name for group in sizes.groups] + ["cache", "hidden"]
    return {name: slice(3 * at, 3 * at + 3) for at, name in enumerate(names)}


def num_shares(sizes: StageSizes) -> int:
    return 3 * (len(sizes.groups) + 2)


def decode_parts(sizes: StageSizes, rates: TierRates, size: BlockSize, microbatches: int) -> Floats:
    """(6, shares + 1) seconds of one token for each of `microbatches` microbatches; the last column is the constant."""
    b, count = size.microbatch, size.microbatch * microbatches
    parts = np.zeros((6, num_shares(sizes) + 1))
    parts[_COMPUTE, -1] = microbatches * _computing(sizes, rates, b, b) + rates.step_s
    _weights(parts, sizes, rates, count)
    at = places(sizes)
    seen, new = count * sizes.seen_bytes(size.context), count * sizes.cache_bytes
    pairs = count * sizes.seen_flops(size.context)
    here = max(seen / rates.device_attention_bytes_per_s, pairs / rates.attention_flops_per_s)
    device, host, disk = (at["cache"].start + tier for tier in range(3))
    parts[_COMPUTE, device] = here
    each = microbatches * sizes.layers
    passed = count * sizes.layers * sizes.hidden_bytes
    for tier in (host, disk):
        if size.attention == "host":
            parts[_ATTENTION, tier] = seen / rates.host_attention_bytes_per_s + each * rates.host_attention_s
            parts[_TO, tier] = passed / rates.to_device_bytes_per_s + each * rates.copy_s
            parts[_FROM, tier] = (passed + new) / rates.from_device_bytes_per_s + each * rates.copy_s
        else:
            parts[_COMPUTE, tier] = here
            parts[_TO, tier] = seen / rates.to_device_bytes_per_s + each * rates.copy_s
            parts[_FROM, tier] = new / rates.from_device_bytes_per_s + each * rates.copy_s
    parts[_READ, disk] = seen / rates.disk_read_bytes_per_s + each * rates.copy_s
    parts[_WRITE, disk] = new / rates.disk_write_bytes_per_s + each * rates.copy_s
    _hidden(parts, at["hidden"], rates, passed if microbatches > 1 else 0.0)
    return parts


def prefill_parts(sizes: StageSizes, rates: TierRates, size: BlockSize, prompts: float) -> Floats:
    """Likewise of so many prompts in one pass over the weights."""
    tokens = prompts * size.prompt
    at_once = min(float(size.prompt_tokens), tokens)
    passes = tokens / at_once
    parts = np.zeros((6, num_shares(sizes) + 1))
    attention = prompts * sizes.prompt_flops(size.prompt) / rates.attention_flops_per_s
    starting = passes * _computing(sizes, rates, at_once, at_once * prompts / tokens)
    parts[_COMPUTE, -1] = starting + attention + rates.step_s
    _weights(parts, sizes, rates, tokens)
    at = places(sizes)
    new = tokens * sizes.cache_bytes
    for tier in (1, 2):
        parts[_FROM, at["cache"].start + tier] = new / rates.from_device_bytes_per_s
    parts[_WRITE, at["cache"].start + 2] = new / rates.disk_write_bytes_per_s
    _hidden(parts, at["hidden"], rates, tokens * sizes.layers * sizes.hidden_bytes if passes > 1 else 0.0)
    return parts


def _computing(sizes: StageSizes, rates: TierRates, rows: float, samples: float) -> float:
    """One microbatch through all layers, without attention."""
    flops = rows * sizes.flops_per_token + samples * sizes.head_flops
    multiplying = flops / matmul_flops_per_s(rates, rows)
    reading = sizes.read_bytes(rows) / rates.device_bytes_per_s
    return sizes.layers * rates.layer_s + max(multiplying, reading)


def _weights(parts: Floats, sizes: StageSizes, rates: TierRates, tokens: float) -> None:
    for number, group in enumerate(sizes.groups):
        moved = group.nbytes * group.wanted(tokens)
        for tier in (1, 2):
            started = sizes.layers * rates.copy_s if number == 0 else 0.0
            parts[_TO, 3 * number + tier] = moved / rates.to_device_bytes_per_s + started
        parts[_READ, 3 * number + 2] = moved / rates.disk_read_bytes_per_s


def _hidden(parts: Floats, at: slice, rates: TierRates, nbytes: float) -> None:
    for tier in (1, 2):
        parts[_TO, at.start + tier] = nbytes / rates.to_device_bytes_per_s
        parts[_FROM, at.start + tier] = nbytes / rates.from_device_bytes_per_s
    parts[_READ, at.start + 2] = nbytes / rates.disk_read_bytes_per_s
    parts[_WRITE, at.start + 2] = nbytes / rates.disk_write_bytes_per_s


def overlaps(rates: TierRates, microbatches: int) -> tuple[float, ...]:
    """Of each actor after `compute`, how much of the lesser hides; see above."""
    copies, disk = rates.copies_overlap, rates.disk_overlap
    return rates.attention_overlap * (microbatches - 1) / microbatches, copies, copies, disk, disk


def together(seconds: Floats, hides: tuple[float, ...]) -> float:
    """Of the six actors at work at the same time."""
    total = float(seconds[0])
    for each, overlap in zip(seconds[1:], hides, strict=True):
        total += float(each) - overlap * min(total, float(each))
    return total


@dataclass(frozen=True, slots=True)
class Phase:
    """Something that a block does `times` times, and how its actors overlap."""

    times: float
    parts: Floats
    hides: tuple[float, ...]


def phases(sizes: StageSizes, rates: TierRates, size: BlockSize) -> list[Phase]:
    """All that a stage does until every sequence of a block has its answer. A diagonal block does both at once."""
    count, n = size.num_microbatches, size.answer
    if size.order == "diagonal":
        both = decode_parts(sizes, rates, size, count) * ((n - 1) / n)
        pre = prefill_parts(sizes, rates, size, size.joining)
        # Weights that are on their way come once for both: those that the prompts want are all that anyone wants.
        groups = 3 * len(sizes.groups)
        both[_TO, :groups] = both[_READ, :groups] = 0.0
        return [Phase(n, both + pre, overlaps(rates, count))]
    times, count = (count, 1) if size.order == "rows" else (1, count)
    prefill = Phase(times, prefill_parts(sizes, rates, size, size.joining), overlaps(rates, count))
    return [prefill, Phase(times * (n - 1), decode_parts(sizes, rates, size, count), overlaps(rates, count))]
