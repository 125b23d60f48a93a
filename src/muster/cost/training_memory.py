"""Bytes that a stage holds while it trains: weights, gradients, optimizer, activations, logits, buffers of codecs."""

from dataclasses import dataclass
from math import ceil

from muster.cost.codecs import buffer_bytes
from muster.cost.memory import dtype_bytes
from muster.errors import InvalidRequest
from muster.spec.codec import RAW, Codec
from muster.spec.model_shape import ModelShape

OPTIMIZERS = {"sgd": 0.0, "momentum": 4.0, "adamw": 8.0, "adamw-8bit": 2.0}
"""Bytes of state per parameter, in float32 but for the last (Dettmers et al., 2021, its scales left out)."""
_LOGITS_BYTES = 4


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    sequences: int = 1
    """Texts in one microbatch."""
    length: int = 2048
    """Tokens of each."""
    in_flight: int = 1
    """Microbatches whose backward pass is still to come; on stage s of S at most S - s with 1F1B, all with GPipe."""
    recompute: bool = False
    """Keep the input of each layer only, and compute the rest again on the way back (Chen et al., 2016)."""
    optimizer: str = "adamw"
    codec: Codec = RAW


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    weights: int
    gradients: int
    optimizer: int
    """State, and a copy of the weights in float32 where the model itself is narrower."""
    activations: int
    logits: int
    codec_buffers: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits + self.codec_buffers


def training_memory(shape: ModelShape, first: int, last: int, options: TrainingOptions) -> TrainingMemory:
    """Raises `InvalidRequest` on an optimizer that is not in `OPTIMIZERS`."""
    weights = shape.weight_bytes(first, last)
    parameters = weights / dtype_bytes(shape.dtype)
    tokens = options.sequences * options.length
    is_last = last == shape.num_layers
    links = (first > 0) + (not is_last)
    return TrainingMemory(
        weights=weights,
        gradients=weights,
        optimizer=ceil(parameters * state_bytes(options.optimizer, shape.dtype)),
        activations=_activations(shape, first, last, tokens, options),
        # The logits, and their gradient of the same size.
        logits=2 * tokens * shape.vocab_size * _LOGITS_BYTES if is_last else 0,
        codec_buffers=buffer_bytes(shape, tokens, links, options.codec),
    )


def state_bytes(optimizer: str, dtype: str) -> float:
    """Bytes per parameter beside weight and gradient."""
    if optimizer not in OPTIMIZERS:
        known = ", ".join(OPTIMIZERS)
        raise InvalidRequest(f"There is no optimizer {optimizer!r}; choose one of {known}.", "optimizer")
    return OPTIMIZERS[optimizer] + (4.0 if dtype_bytes(dtype) < 4 and optimizer != "sgd" else 0.0)


def _activations(shape: ModelShape, first: int, last: int, tokens: int, options: TrainingOptions) -> int:
    saved = saved_bytes_per_token(shape, first, last)
    if not options.recompute:
        return options.in_flight * tokens * sum(saved)
    inputs = (last - first) * shape.hidden_size * dtype_bytes(shape.dtype)
    # While one layer is computed again, all of its values are there.
    return options.in_flight * tokens * inputs + tokens * max(saved, default=0)


def saved_bytes_per_token(shape: ModelShape, first: int, last: int) -> tuple[int, ...]:
    """Per layer: what the way back needs of a token.

    Where the shape does not say: the results of the multiplications half as much again, for the activations between
    them, and six hidden states for norms and residuals.
    """
    if shape.saved_bytes_per_token:
        return shape.saved_bytes_per_token[first:last]
    itemsize, hidden = dtype_bytes(shape.dtype), shape.hidden_size
    return tuple(
        itemsize * (3 * (flops // (2 * hidden)) // 2 + 6 * hidden) for flops in shape.layer_flops_per_token[first:last]
    )
