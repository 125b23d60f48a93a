"""What a stage has to do in one step: operations and bytes, for serving and for training. Knows no machine.

A stage holds layers [first, last). Operations are counted as two per multiplication and addition, in two kinds, because
machines do not reach the same share of their peak in both: multiplications by weights, and attention over the context.

    pairs(n, w) = 1 + 2 + ... + n, each term at most w: who sees whom in a causal text of n tokens with window w
"""

from dataclasses import dataclass

from muster.cost.memory import dtype_bytes
from muster.spec.model_shape import ModelShape


@dataclass(frozen=True, slots=True)
class Work:
    """Amounts; those of two pieces of work add up."""

    matmul_flops: float = 0.0
    attention_flops: float = 0.0
    memory_bytes: float = 0.0
    """Through the device's memory: weights, cache, activations, state of the optimizer."""
    layers: int = 0
    """Layers started, each of which costs some time whatever it does."""
    rows: int = 0
    """Sequences that take part."""
    steps: int = 0

    @property
    def flops(self) -> float:
        return self.matmul_flops + self.attention_flops

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.matmul_flops + other.matmul_flops,
            self.attention_flops + other.attention_flops,
            self.memory_bytes + other.memory_bytes,
            self.layers + other.layers,
            self.rows + other.rows,
            self.steps + other.steps,
        )

    def times(self, factor: float) -> "Work":
        """So much more arithmetic and traffic in as many starts."""
        return Work(
            self.matmul_flops * factor,
            self.attention_flops * factor,
            self.memory_bytes * factor,
            self.layers,
            self.rows,
            self.steps,
        )


def decode(shape: ModelShape, first: int, last: int, sequences: int, context: float) -> Work:
    """One token for each of `sequences`, which each see `context` tokens (the mean; their own among them)."""
    seen = [min(context, window) if window else context for window in _windows(shape, first, last)]
    cache = sum(
        bytes_ * (tokens + 1) for bytes_, tokens in zip(shape.kv_bytes_per_token[first:last], seen, strict=True)
    )
    pairs = sum(flops * tokens for flops, tokens in zip(_pair_flops(shape, first, last), seen, strict=True))
    return Work(
        matmul_flops=sequences * shape.flops_per_token(first, last),
        attention_flops=sequences * pairs,
        memory_bytes=weights_read(shape, first, last, sequences)
        + sequences * cache
        + activation_traffic(shape, first, last, sequences),
        layers=last - first,
        rows=sequences,
        steps=1,
    )


def prefill(shape: ModelShape, first: int, last: int, tokens: int, past: int = 0, samples: int = 1) -> Work:
    """`tokens` more tokens of one prompt of which `past` are cached; `samples` of them ask for logits."""
    windows = _windows(shape, first, last)
    pairs = [causal_pairs(past + tokens, window) - causal_pairs(past, window) for window in windows]
    kept = [min(past, window) if window else past for window in windows]
    # The cache of the past is read once for the whole chunk; what is new is written and read.
    moved = sum(
        bytes_ * (old + 2 * tokens) for bytes_, old in zip(shape.kv_bytes_per_token[first:last], kept, strict=True)
    )
    layers = sum(shape.layer_flops_per_token[first:last])
    head = shape.head_flops_per_token if last == shape.num_layers else 0
    return Work(
        matmul_flops=tokens * layers + samples * head,
        attention_flops=sum(flops * count for flops, count in zip(_pair_flops(shape, first, last), pairs, strict=True)),
        memory_bytes=weights_read(shape, first, last, tokens) + moved + activation_traffic(shape, first, last, tokens),
        layers=last - first,
        rows=1,
        steps=1,
    )


def causal_pairs(tokens: int, window: int = 0) -> int:
    """pairs(n, w) of the legend above; window 0 is no limit."""
    full = min(tokens, window) if window else tokens
    return full * (full + 1) // 2 + (tokens - full) * window


def weights_read(shape: ModelShape, first: int, last: int, tokens: int) -> float:
    """Bytes of weights that a step of `tokens` tokens reads; of the embedding only rows, which do not count.

    Of E experts of which each token takes k at random, 1 - (1 - k/E)^tokens are wanted by somebody.
    """
    total = float(shape.read_bytes(first, last))
    experts = sum(shape.expert_bytes[first:last])
    if not experts or not shape.num_experts:
        return total
    unused = (1 - shape.experts_per_token / shape.num_experts) ** tokens
    return total - experts * unused


def activation_traffic(shape: ModelShape, first: int, last: int, tokens: int) -> float:
    """Bytes of activations written and read again: what the multiplications give, and the hidden state between them.

    As in `memory.workspace_bytes`, a layer's multiplications give (FLOPs per token) / (2 x hidden size) numbers.
    """
    per_token = sum(flops // (2 * shape.hidden_size) + 2 * shape.hidden_size for flops in _flops(shape, first, last))
    return 2.0 * tokens * per_token * dtype_bytes(shape.dtype)


def train_forward(shape: ModelShape, first: int, last: int, sequences: int, length: int) -> Work:
    """Forward pass over `sequences` texts of `length` tokens; the last stage turns every token into logits."""
    tokens = sequences * length
    windows = _windows(shape, first, last)
    # An encoder keeps no cache and sees the whole text from every token.
    sees_all = [cache == 0 for cache in shape.kv_bytes_per_token[first:last]]
    pairs = [length**2 if all_ else causal_pairs(length, w) for all_, w in zip(sees_all, windows, strict=True)]
    attention = sum(flops * count for flops, count in zip(_pair_flops(shape, first, last), pairs, strict=True))
    return Work(
        matmul_flops=tokens * shape.flops_per_token(first, last),
        attention_flops=sequences * attention,
        memory_bytes=weights_read(shape, first, last, tokens) + activation_traffic(shape, first, last, tokens),
        layers=last - first,
        rows=sequences,
        steps=1,
    )


def train_backward(
    shape: ModelShape, first: int, last: int, sequences: int, length: int, recompute: bool = False
) -> Work:
    """Backward pass: gradients of inputs and of weights, as much as forward each; `recompute` adds forward again."""
    forward = train_forward(shape, first, last, sequences, length)
    return forward.times(2) + forward if recompute else forward.times(2)


def optimizer_step(shape: ModelShape, first: int, last: int, state_bytes_per_parameter: float) -> Work:
    """Read the gradients, read and write weights and state; the arithmetic is nothing beside it."""
    weights = shape.weight_bytes(first, last)
    state = state_bytes_per_parameter * weights / dtype_bytes(shape.dtype)
    return Work(memory_bytes=3 * weights + 2 * state, steps=1)


def _windows(shape: ModelShape, first: int, last: int) -> tuple[int, ...]:
    return shape.windows[first:last] or (0,) * (last - first)


def _pair_flops(shape: ModelShape, first: int, last: int) -> tuple[int, ...]:
    """Where nobody worked it out: one query for each cached head, which is the least it can be."""
    known = shape.attention_flops_per_pair[first:last]
    cache = shape.kv_bytes_per_token[first:last]
    return known or tuple(2 * bytes_ // dtype_bytes(shape.dtype) for bytes_ in cache)


def _flops(shape: ModelShape, first: int, last: int) -> tuple[int, ...]:
    return shape.layer_flops_per_token[first:last]
