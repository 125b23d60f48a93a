"""Seconds of one step on one stage, for any mix of decodes and prompt chunks. Knows nothing of rings or time.

The same figures as `cost/work.py` through `cost/island.py` give, with all sums over layers taken beforehand, because a
simulation asks a million times. A step reads the weights once, whatever it carries, and comes after a long pause; what
it is spared if it does not is told apart.
"""

from dataclasses import dataclass, field
from functools import lru_cache

from muster.cost.island import all_reduce
from muster.cost.memory import dtype_bytes
from muster.cost.pace import Constants, host_slowness, memory_bandwidth, peak_flops_per_s, warmth
from muster.cost.work import activation_traffic, causal_pairs, decode
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Stage
from muster.spec.pool import Node


@dataclass(slots=True)
class StepLoad:
    """What one step carries: means of steps may be given too, so counts need not be whole."""

    decodes: float = 0.0
    """Sequences that get one more token."""
    context: float = 0.0
    """Tokens that each of them sees, its own among them (the mean)."""
    chunks: tuple[tuple[int, int], ...] = ()
    """(tokens of the prompt that are cached, tokens of it computed now)."""
    samples: float = 0.0
    """Tokens wanted from the last stage: one for each decode, and for each chunk that ends its prompt."""
    prompt_tokens: int = field(init=False)
    tokens: float = field(init=False)
    rows: float = field(init=False)

    def __post_init__(self) -> None:
        self.prompt_tokens = sum([tokens for _, tokens in self.chunks]) if self.chunks else 0
        self.tokens = self.decodes + self.prompt_tokens
        self.rows = self.decodes + len(self.chunks)

    def without_prompts(self) -> "StepLoad":
        return StepLoad(self.decodes, self.context, (), self.decodes)

    def seen(self, window: int) -> tuple[float, float, float]:
        """(cached tokens seen by decodes, pairs of the chunks, cached tokens the chunks read); window 0 is none."""
        seen = self.decodes * (min(self.context, window) if window else self.context)
        pairs, past = 0, 0
        for before, tokens in self.chunks:
            if window:
                pairs += causal_pairs(before + tokens, window) - causal_pairs(before, window)
                past += min(before, window)
            else:
                pairs += tokens * (2 * before + tokens + 1) // 2
                past += before
        return seen, pairs, past


@dataclass(frozen=True, slots=True)
class _Amounts:
    """Sums over a layer range."""

    matmul_flops_per_token: float
    head_flops_per_sample: float
    dense_bytes: float
    expert_bytes: float
    unused_share: float
    """Of the experts, by one token."""
    activation_bytes_per_token: float
    windows: tuple[tuple[int, float, float], ...]
    """(window, cache bytes per token, attention FLOPs per pair), summed over the layers with that window."""


class StagePace:
    """Seconds of a step on `stage`, tensor parallel over its devices as `cost/island.py` has it."""

    def __init__(self, shape: ModelShape, stage: Stage, node: Node, constants: Constants) -> None:
        constants = constants.of(node.device)
        devices = stage.degree
        peak = peak_flops_per_s(node.device, shape.dtype) * devices
        self._amounts = amounts = _amounts(shape, stage.first, stage.last)
        slowness = host_slowness(node.device, constants.host_flops_per_s)
        self._fixed_s = (constants.step_s + constants.cold_s + stage.num_layers * constants.layer_s) * slowness
        self._cold_s, self._cools_s = constants.cold_s * slowness, constants.cools_s
        # A machine that lends a share of its time computes in this part of each step, and pauses for the rest.
        self._rest = max(0.0, 1 - 1 / slowness)
        self._row_s = constants.row_s * slowness
        self._overlap = constants.overlap
        self._token_s = constants.matmul * amounts.matmul_flops_per_token / peak
        self._sample_s = constants.matmul * amounts.head_flops_per_sample / peak
        self._pair_s = constants.attention / peak
        self._byte_s = constants.memory / (memory_bandwidth(node.device) * devices)
        self._reduce_token_s = 0.0
        if devices > 1:
            each_s, byte_s = all_reduce(node, devices, constants)
            self._fixed_s += 2 * stage.num_layers * each_s
            self._reduce_token_s = 2 * stage.num_layers * shape.hidden_size * dtype_bytes(shape.dtype) * byte_s

    def is_like(self, other: "StagePace") -> bool:
        """Whether both always take the same time."""
        return vars(self) == vars(other)

    def seconds(self, load: StepLoad) -> float:
        computing, moving, other = self.parts(load)
        return other + computing + moving - self._overlap * (computing if computing < moving else moving)

    def spared_s(self, idle_s: float, last_s: float) -> float:
        """By how much a step is faster that begins `idle_s` after one that took `last_s`."""
        return self._cold_s * warmth(idle_s + self._rest * last_s, self._cools_s) if self._cold_s else 0.0

    def parts(self, load: StepLoad) -> tuple[float, float, float]:
        """Seconds of arithmetic and of memory traffic, which overlap, and those that are added."""
        amounts, tokens, prompt = self._amounts, load.tokens, load.prompt_tokens
        computing = tokens * self._token_s + load.samples * self._sample_s
        moved = amounts.dense_bytes + tokens * amounts.activation_bytes_per_token
        if amounts.expert_bytes:
            moved += amounts.expert_bytes * (1 - amounts.unused_share**tokens)
        for window, cache_bytes, pair_flops in amounts.windows:
            seen, pairs, past = load.seen(window)
            computing += self._pair_s * pair_flops * (seen + pairs)
            moved += cache_bytes * (seen + load.decodes + past + 2 * prompt)
        starting = self._fixed_s + load.rows * self._row_s
        return computing, moved * self._byte_s, starting + tokens * self._reduce_token_s


def decode_load(batch: float, context: float) -> StepLoad:
    return StepLoad(decodes=batch, context=context, samples=batch)


@lru_cache(maxsize=4096)
def _amounts(shape: ModelShape, first: int, last: int) -> _Amounts:
    experts = float(sum(shape.expert_bytes[first:last])) if shape.num_experts else 0.0
    return _Amounts(
        matmul_flops_per_token=sum(shape.layer_flops_per_token[first:last]),
        head_flops_per_sample=shape.head_flops_per_token if last == shape.num_layers else 0,
        dense_bytes=shape.read_bytes(first, last) - experts,
        expert_bytes=experts,
        unused_share=1 - shape.experts_per_token / shape.num_experts if experts else 0.0,
        activation_bytes_per_token=activation_traffic(shape, first, last, 1),
        windows=_by_window(shape, first, last),
    )


def _by_window(shape: ModelShape, first: int, last: int) -> tuple[tuple[int, float, float], ...]:
    sums: dict[int, tuple[float, float]] = {}
    for layer in range(first, last):
        window = shape.windows[layer] if shape.windows else 0
        cache, flops = sums.get(window, (0.0, 0.0))
        pair_flops = decode(shape, layer, layer + 1, sequences=1, context=1).attention_flops
        sums[window] = cache + shape.kv_bytes_per_token[layer], flops + pair_flops
    return tuple((window, *both) for window, both in sums.items())
