"""What a pool is asked to do. Knows nothing of machines."""

from dataclasses import dataclass
from typing import Literal, get_args

Objective = Literal["throughput", "cost", "slo", "latency", "train", "dtfm"]
"""What a plan makes the most of."""
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
TRAINING: tuple[Objective, ...] = ("train", "dtfm")


@dataclass(frozen=True, slots=True)
class ServeWorkload:
    """Requests of one kind: the mean of prompts and of answers, how often, and by when."""

    prompt_tokens: int = 512
    output_tokens: int = 128
    requests_per_s: float | None = None
    """Arrivals, Poisson; None is offline: as many requests as the pool takes."""
    deadline_s: float | None = None
    """From a request's arrival to its last token; None is no deadline."""
    concurrency: int | None = None
    """Offline, so many requests are there at a time: whenever one is answered, the next one comes."""


@dataclass(frozen=True, slots=True)
class TrainWorkload:
    """One optimizer step over a global batch."""

    sequences: int = 1024
    """Texts in the global batch, over all pipelines."""
    length: int = 2048
    """Tokens of each."""
    microbatch: int = 1
    """Texts in one microbatch."""
    optimizer: str = "adamw"
    recompute: bool = False
    """Compute activations again on the way back instead of keeping them."""
    schedule: Literal["gpipe", "1f1b", "interleaved"] = "1f1b"
