"""Whether a stage that trains fits on its machine. Knows no search."""

from math import ceil

from muster.cost.training_memory import TrainingOptions, training_memory
from muster.spec.codec import RAW, Codec
from muster.spec.model_shape import ModelShape
from muster.spec.workload import TrainWorkload


def in_flight(workload: TrainWorkload, stage: int, stages: int, microbatches: int) -> int:
    """Microbatches whose backward pass is still to come on stage `stage` of `stages`, at most.

    GPipe sends all of them forth before the first comes back; with 1F1B a stage runs ahead by as many as there are
    stages from it to the end (Narayanan et al., "PipeDream", 2019). Interleaved is counted as 1F1B.
    """
    if workload.schedule == "gpipe":
        return microbatches
    return min(microbatches, stages - stage)


def stage_memory(
    shape: ModelShape,
    workload: TrainWorkload,
    layers: tuple[int, int],
    alive: int,
    devices: int = 1,
    codec: Codec = RAW,
) -> int:
    """Bytes on each of `devices` for layers [first, last) with `alive` microbatches in flight.

    Tensor parallel splits all but the codec's buffers, which every device holds whole.
    """
    options = TrainingOptions(
        workload.microbatch, workload.length, alive, workload.recompute, workload.optimizer, codec
    )
    memory = training_memory(shape, *layers, options)
    return ceil((memory.total - memory.codec_buffers) / devices) + memory.codec_buffers
