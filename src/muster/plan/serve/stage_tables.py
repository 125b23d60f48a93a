"""What each kind of machine does with every layer range, for a list of batches at once. Knows no order and no links.

    seconds(kind, degree)[i, a, b]   one step of batch i on layers [a, b), tensor parallel over `degree` devices
    room(kind, degree)[i, a, b]      tokens of cache that fit beside those layers; below 0 if they do not fit at all

The figures are the simulator's (`sim/serve/stage_time.py`), taken layer by layer and added up: arithmetic and memory
traffic add up over layers, and the sums overlap.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import numpy as np

from muster.cost.layer_ranges import Floats, is_range, ranges, weight_table, workspace_row
from muster.cost.memory import WorkspaceOptions
from muster.cost.pace import Constants, overlapped
from muster.plan.serve.fleet import Fleet
from muster.sim.serve.stage_time import StagePace, StepLoad
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Stage
from muster.spec.pool import Node

Loads = tuple[tuple[float, StepLoad], ...]
"""(share of the steps, what such a step carries)."""


@dataclass
class StageTables:
    shape: ModelShape
    fleet: Fleet
    constants: Constants
    batches: tuple[int, ...]
    loads: Callable[[int], Loads]
    """What steps carry that advance so many sequences."""
    workspace: WorkspaceOptions
    max_degree: int
    _seconds: dict[tuple[int, int], Floats] = field(default_factory=dict)
    _room: dict[tuple[int, int], Floats] = field(default_factory=dict)

    @property
    def layers(self) -> int:
        return self.shape.num_layers

    def degrees(self, devices: int) -> list[int]:
        """Tensor-parallel degrees for up to so many devices: those at which the model can be cut.

        Where nobody has worked those out, the hidden state must be divisible by them.
        """
        most, known = min(devices, self.max_degree), self.shape.degrees
        if known is not None:
            return [1, *(degree for degree in known if degree <= most)]
        return [degree for degree in range(1, most + 1) if self.shape.hidden_size % degree == 0]

    def seconds(self, kind: int, degree: int) -> Floats:
        """[batch, L + 1, L + 1], infinite where b <= a."""
        key = (kind, degree)
        if key not in self._seconds:
            node = self.fleet.kinds[kind]
            tables = [self._step_table(node, degree, self.loads(batch)) for batch in self.batches]
            self._seconds[key] = np.array(tables)
        return self._seconds[key]

    def room(self, kind: int, degree: int) -> Floats:
        """[batch, L + 1, L + 1]."""
        key = (kind, degree)
        if key not in self._room:
            node = self.fleet.kinds[kind]
            self._room[key] = np.array([self._room_table(node, degree, batch) for batch in self.batches])
        return self._room[key]

    def layer_parts(self, kind: int, batch: int) -> Floats:
        """[arithmetic, memory traffic, what is added; layer]: seconds of each layer by itself on one device, mean step.

        Arithmetic and traffic overlap as `Constants.overlap` says.

        `batch` is an index. The start of the step is left out; the last layer includes the head.
        """
        loads = self.loads(self.batches[batch])
        total = sum(share for share, _ in loads)
        keys = _piece_keys(self.shape)
        pieces = _pieces(self.shape, self.fleet.kinds[kind], 1, self.constants)
        parts = np.zeros((3, self.layers))
        for share, load in loads:
            known = {key: pace.parts(load) for key, pace in pieces.items()}
            parts += share / total * np.array([known[key] for key in keys]).T
            parts[2] -= share / total * self._start_s(self.fleet.kinds[kind], 1, load)
        return parts

    def start_s(self, kind: int, degree: int, batch: int) -> float:
        """What any stage takes in a mean step, however few layers it has."""
        loads = self.loads(self.batches[batch])
        shares = [share * self._start_s(self.fleet.kinds[kind], degree, load) for share, load in loads]
        return sum(shares) / sum(share for share, _ in loads)

    def _start_s(self, node: Node, degree: int, load: StepLoad) -> float:
        """What a stage takes once however many layers it has: what one layer and another take more than both."""
        if self.layers == 1:
            return 0.0
        spans = ((0, 1), (1, 2), (0, 2))
        stages = [Stage(node.id, *span, tuple(range(degree))) for span in spans]
        one, two, both = (StagePace(self.shape, stage, node, self.constants).parts(load)[2] for stage in stages)
        return one + two - both

    def _step_table(self, node: Node, degree: int, loads: Loads) -> Floats:
        pieces = _pieces(self.shape, node, degree, self.constants)
        keys = _piece_keys(self.shape)
        whole = sum(share for share, _ in loads)
        total = np.zeros((self.layers + 1, self.layers + 1))
        count, overlap = ranges([1.0] * self.layers), self.constants.of(node.device).overlap
        for share, load in loads:
            parts = {key: pace.parts(load) for key, pace in pieces.items()}
            computing, moving, other = (ranges([parts[key][i] for key in keys]) for i in range(3))
            busy = overlapped(computing, moving, overlap)
            # Every layer counted the start of a step; a stage starts once.
            again = (count - 1) * self._start_s(node, degree, load)
            total += share / whole * (busy + other - again)
        return np.where(is_range(self.layers), total, np.inf)

    def _room_table(self, node: Node, degree: int, batch: int) -> Floats:
        shape, layers = self.shape, self.layers
        scratch = workspace_row(shape, self.workspace.of_steps(batch=batch))
        left = node.device.memory_bytes - np.ceil(weight_table(shape) / degree) - scratch[None, :]
        # One token less, because the bytes of a device are rounded up.
        cache = np.maximum(ranges(shape.kv_bytes_per_token), 1e-9)
        return np.where(is_range(layers) & (left >= 0), np.floor(np.maximum(left - 1, 0) * degree / cache), -1.0)


def _piece_keys(shape: ModelShape) -> list[Hashable]:
    """Equal for layers that cost the same; the first and the last have more to do."""
    optional = (shape.attention_flops_per_pair, shape.windows, shape.expert_bytes)
    columns = [shape.layer_bytes, shape.layer_flops_per_token, shape.kv_bytes_per_token, *filter(None, optional)]
    rows: list[Hashable] = list(zip(*columns, strict=True))
    return [(row, i == 0, i == shape.num_layers - 1) for i, row in enumerate(rows)]


def _pieces(shape: ModelShape, node: Node, degree: int, constants: Constants) -> dict[Hashable, StagePace]:
    devices = tuple(range(degree))
    where = {key: layer for layer, key in enumerate(_piece_keys(shape))}
    return {
        key: StagePace(shape, Stage(node.id, layer, layer + 1, devices), node, constants)
        for key, layer in where.items()
    }
