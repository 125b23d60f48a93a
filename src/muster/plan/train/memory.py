"""Whether a stage that trains fits on its machine; the same count as the forecast prints. Knows no search."""

from math import ceil

from muster.cost.training_memory import TrainingOptions, training_memory
from muster.sim.train.forecast import UNDIVIDED
from muster.sim.train.pipeline_time import CHUNKS
from muster.spec.codec import RAW, Codec
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline
from muster.spec.workload import TrainWorkload


def in_flight(workload: TrainWorkload, stage: int, stages: int, microbatches: int) -> int:
    """Microbatches whose backward pass is still to come on stage `stage` of `stages`, at most.

    GPipe sends all of them forth before the first comes back; with 1F1B a stage runs ahead by as many as there are
    stages from it to the end (Narayanan et al., "PipeDream", 2019); interleaved as in `sim/train_steady.in_flight`.
    """
    if workload.schedule == "gpipe":
        return microbatches
    if workload.schedule == "interleaved":
        return min(microbatches, ceil((2 * (stages - stage) - 1 + (CHUNKS - 1) * stages) / CHUNKS))
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

    Tensor parallel leaves a part of the activations and the codec's buffers whole on every device.
    """
    options = TrainingOptions(
        workload.microbatch, workload.length, alive, workload.recompute, workload.optimizer, codec
    )
    memory = training_memory(shape, *layers, options)
    split = memory.gradients + memory.optimizer + memory.logits
    activations = ceil(memory.activations * (UNDIVIDED + (1 - UNDIVIDED) / devices))
    return ceil(memory.weights / devices) + activations + ceil(split / devices) + memory.codec_buffers


def placed_bytes(shape: ModelShape, pipeline: Pipeline, index: int) -> int:
    """On each device of stage `index` of a pipeline that trains: what the broker books, and the machine checks."""
    work, stage = pipeline.train, pipeline.stages[index]
    alive = in_flight(work.workload, index, len(pipeline.stages), work.num_microbatches)
    return stage_memory(shape, work.workload, (stage.first, stage.last), max(1, alive), stage.degree)
