"""What a stage of any layer range does and needs, for all ranges at once: sums over single layers. Knows no machine.

    table[first, last]      of a stage of layers [first, last); where last <= first it means nothing

The figures are those of `work` and `memory`, for searches that would ask for each range by itself too often.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from muster.cost.memory import WorkspaceOptions, workspace_bytes
from muster.cost.work import Work
from muster.spec.model_shape import ModelShape

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class WorkTable:
    """The amounts of `Work`. Those that a stage has once, however many layers it has, are the same everywhere."""

    matmul_flops: Floats
    attention_flops: Floats
    memory_bytes: Floats
    layers: Floats
    rows: int
    steps: int

    def times(self, factor: float) -> "WorkTable":
        """As `Work.times`."""
        return WorkTable(
            self.matmul_flops * factor,
            self.attention_flops * factor,
            self.memory_bytes * factor,
            self.layers,
            self.rows,
            self.steps,
        )


def work_table(layers: Sequence[Work]) -> WorkTable:
    """`layers`: the work of a stage of each layer alone, the first with the embedding, the last with the head."""
    return WorkTable(
        matmul_flops=ranges([one.matmul_flops for one in layers]),
        attention_flops=ranges([one.attention_flops for one in layers]),
        memory_bytes=ranges([one.memory_bytes for one in layers]),
        layers=ranges([one.layers for one in layers]),
        rows=layers[0].rows,
        steps=layers[0].steps,
    )


def weight_table(shape: ModelShape) -> Floats:
    """`ModelShape.weight_bytes`."""
    table = ranges(shape.layer_bytes)
    table[0, :] += shape.embedding_bytes
    table[:, -1] += shape.head_bytes
    table[0, -1] -= shape.tied_bytes
    return table


def workspace_row(shape: ModelShape, options: WorkspaceOptions) -> Floats:
    """[last] -> `workspace_bytes`, which depends on nothing else."""
    row = np.full(shape.num_layers + 1, workspace_bytes(shape, -1, options), dtype=np.float64)
    row[-1] = workspace_bytes(shape, shape.num_layers, options)
    return row


def is_range(layers: int) -> npt.NDArray[np.bool_]:
    """Whether [first, last) is a range of layers at all."""
    index = np.arange(layers + 1)
    return np.asarray(index[None, :] > index[:, None])


def ranges(values: Sequence[float]) -> Floats:
    """[a, b] -> sum of values[a:b]; below 0 where b < a."""
    sums = np.concatenate([[0.0], np.cumsum(np.array(values, dtype=np.float64))])
    return np.asarray(sums[None, :] - sums[:, None])
