"""A training job in the two numbers of DT-FM's objective: bytes of a stage's gradients, bytes of a macro-batch.

Knows nothing of machines. Gradients are counted in float32, as in DT-FM's scheduler; activations in the model's dtype.
"""

from itertools import pairwise
from math import ceil

from muster.cost.codecs import message_bytes
from muster.cost.memory import dtype_bytes
from muster.plan.train.dtfm.problem import TrainJob
from muster.spec.model_shape import ModelShape
from muster.spec.workload import TrainWorkload

PUBLISHED_JOB = TrainJob(
    replicas=8,
    stages=8,
    gradient_bytes=1.3e9 * 4 * 3 / 24,
    activation_bytes=2024 * 2048 * 2 * (1e6 / 2048 / 8) / 2**30 * 1e9,
)
"""GPT3-XL, 3 of 24 layers per stage, 1e6 tokens in 8 replicas, to the letter of github.com/DS3Lab/DT-FM at cda948f,
scheduler/heuristic_evolutionary_solver/scheduler.py: c_dp = 0.650 GB, and c_pp = 0.4712, where 2024 stands for the
length or the hidden size of 2048 and a number of GiB is used as one of GB. Kept, so that costs can be compared."""

PUBLISHED_SEQUENCES = 488
"""1e6 tokens in texts of 2048; 61 for each of 8 replicas."""

_GRADIENT_BYTES = 4


def equal_cuts(num_layers: int, stages: int) -> tuple[int, ...]:
    """Where equal stages begin and end: 0, ..., num_layers; those that cannot be equal differ by one layer."""
    return tuple(stage * num_layers // stages for stage in range(stages + 1))


def job_of(shape: ModelShape, workload: TrainWorkload, replicas: int, stages: int) -> TrainJob:
    """The stage with the most parameters decides about gradients; embedding and head count where they are."""
    cuts = equal_cuts(shape.num_layers, stages)
    widest = max(shape.weight_bytes(first, last) for first, last in pairwise(cuts))
    tokens = ceil(workload.sequences / replicas) * workload.length
    return TrainJob(
        replicas=replicas,
        stages=stages,
        gradient_bytes=widest / dtype_bytes(shape.dtype) * _GRADIENT_BYTES,
        activation_bytes=message_bytes(shape, tokens),
    )
