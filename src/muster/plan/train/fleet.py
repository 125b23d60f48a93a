"""A pool, a model and a workload as arrays, for a search that prices thousands of layouts. Knows no layout.

A *slot* is what runs one stage: a whole machine (tensor parallel over its devices), or one device of it. Layers run
from 0 to L; arrays over a stage's layers are [first, last] with infinity where first >= last.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from muster.cost.codecs import message_bytes
from muster.cost.island import SLOWEST_INSIDE, island_seconds
from muster.cost.memory import dtype_bytes
from muster.cost.pace import Constants, seconds
from muster.cost.training_memory import state_bytes
from muster.cost.work import Work, optimizer_step, train_backward, train_forward
from muster.plan.codecs import LinkLoad
from muster.plan.train.dtfm.problem import Floats
from muster.plan.train.memory import stage_memory
from muster.spec.codec import RAW, Codec
from muster.spec.link_matrix import link_matrices
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Stage
from muster.spec.pool import Node, Pool
from muster.spec.workload import TrainWorkload

Slot = tuple[int, tuple[int, ...]]
"""Index into `pool.nodes`, devices."""


class Fleet:
    """Everything that the price of a layout depends on, but the layout."""

    def __init__(
        self,
        shape: ModelShape,
        pool: Pool,
        workload: TrainWorkload,
        constants: Constants,
        split_islands: bool = False,
        codec: Codec = RAW,
    ) -> None:
        """`split_islands`: each device is a slot of its own. `codec`: what every link may carry at the strongest."""
        self.shape, self.pool, self.workload, self.constants = shape, pool, workload, constants
        self.slots = slots_of(pool, split_islands)
        self.microbatches = max(1, -(-workload.sequences // workload.microbatch))
        # Raw values need the largest buffers, unless a codec keeps state.
        self.buffered = codec if codec.state_bytes_per_value else RAW
        self._links(codec)
        looks: dict[str, int] = {}
        nodes = [pool.nodes[node] for node, _ in self.slots]
        keys = [repr((node.device, len(slot[1]), node.inside)) for node, slot in zip(nodes, self.slots, strict=True)]
        self.kinds = np.array([looks.setdefault(key, len(looks)) for key in keys], dtype=np.int64)
        """Slots of one kind compute alike and have as much memory."""
        firsts = [keys.index(key) for key in looks]
        self._kind_nodes = [nodes[first] for first in firsts]
        self._kind_devices = [len(self.slots[first][1]) for first in firsts]
        self.caps = np.array([node.device.memory_bytes for node in self._kind_nodes], dtype=np.int64)
        """Bytes of each device, by kind."""
        self._seconds: dict[int, tuple[Floats, Floats, Floats]] = {}
        self._bytes: dict[int, tuple[Floats, Floats]] = {}
        self._fits: dict[tuple[int, int], Floats] = {}

    @property
    def num_layers(self) -> int:
        return self.shape.num_layers

    @property
    def count(self) -> int:
        return len(self.slots)

    def node(self, slot: int) -> Node:
        return self.pool.nodes[self.slots[slot][0]]

    def stage(self, slot: int, first: int, last: int) -> Stage:
        return Stage(self.node(slot).id, first, last, self.slots[slot][1])

    def _links(self, codec: Codec) -> None:
        latency, bandwidth = link_matrices(self.pool)
        index = np.array([node for node, _ in self.slots])
        self.latency_s, self.bandwidth = latency[np.ix_(index, index)], bandwidth[np.ix_(index, index)]
        for node in np.flatnonzero(np.bincount(index) > 1):
            here = np.flatnonzero(index == node)
            inside = self.pool.nodes[node].inside or SLOWEST_INSIDE
            self.latency_s[np.ix_(here, here)] = inside.latency_s
            self.bandwidth[np.ix_(here, here)] = inside.bandwidth_bytes_per_s
        np.fill_diagonal(self.latency_s, 0.0)
        np.fill_diagonal(self.bandwidth, np.inf)
        self.message_bytes = message_bytes(self.shape, self.workload.microbatch * self.workload.length, codec)
        with np.errstate(divide="ignore"):
            self.wire_s: Floats = self.message_bytes / self.bandwidth
            self.byte_s: Floats = 1.0 / self.bandwidth
        one_way = self.latency_s + self.wire_s
        self.back_s: Floats = one_way.T
        """[i, j]: from j back to i."""
        self.round_s: Floats = one_way + one_way.T
        """One microbatch there and back."""

    def seconds(self, kind: int) -> tuple[Floats, Floats, Floats]:
        """Forward and backward of one microbatch, and the optimizer's step, [first, last], as the forecast has them."""
        if kind not in self._seconds:
            self._seconds[kind] = self._stage_seconds(self._kind_nodes[kind], self._kind_devices[kind])
        return self._seconds[kind]

    def _stage_seconds(self, node: Node, devices: int) -> tuple[Floats, Floats, Floats]:
        shape, workload = self.shape, self.workload
        layers = self.num_layers
        tokens = workload.microbatch * workload.length
        state = state_bytes(workload.optimizer, shape.dtype)
        found = np.full((3, layers + 1, layers + 1), np.inf)
        for first in range(layers):
            for last in range(first + 1, layers + 1):
                forth, back = self._work(first, last)
                update = optimizer_step(shape, first, last, state).times(1 / devices)
                found[:, first, last] = (
                    island_seconds(forth, shape, tokens, node, devices, self.constants),
                    island_seconds(back, shape, tokens, node, devices, self.constants),
                    seconds(update, node.device, shape.dtype, self.constants),
                )
        return found[0], found[1], found[2]

    def _work(self, first: int, last: int) -> tuple[Work, Work]:
        """Forward and backward of layers [first, last), from sums over single layers."""
        forth, back = (
            Work(
                after.matmul_flops - before.matmul_flops,
                after.attention_flops - before.attention_flops,
                after.memory_bytes - before.memory_bytes,
                after.layers - before.layers,
                one.rows,
                one.steps,
            )
            for before, after, one in zip(self._sums[first], self._sums[last], self._sums[1], strict=True)
        )
        return forth, back

    @cached_property
    def _sums(self) -> list[tuple[Work, Work]]:
        """Of layers [0, l), forward and backward."""
        sums = [(Work(), Work())]
        for layer in range(self.num_layers):
            sizes = (self.shape, layer, layer + 1, self.workload.microbatch, self.workload.length)
            forth, back = train_forward(*sizes), train_backward(*sizes, self.workload.recompute)
            sums.append((sums[-1][0] + forth, sums[-1][1] + back))
        return sums

    def fits(self, kind: int, alive: int) -> Floats:
        """[first, last]: seconds of forward and backward where the memory suffices, else infinity."""
        if (kind, alive) not in self._fits:
            devices = self._kind_devices[kind]
            if devices not in self._bytes:
                self._bytes[devices] = self._stage_bytes(devices)
            once, more = self._bytes[devices]
            forth, back, _ = self.seconds(kind)
            # Each of the counts is rounded up, so that a byte or two may be missing.
            need = once + (alive - 1) * more + 8 * alive
            self._fits[kind, alive] = np.where(need <= self.caps[kind], forth + back, np.inf)
        return self._fits[kind, alive]

    def _stage_bytes(self, devices: int) -> tuple[Floats, Floats]:
        layers = self.num_layers
        once, more = np.full((2, layers + 1, layers + 1), np.inf)
        for first in range(layers):
            for last in range(first + 1, layers + 1):
                one, two = (stage_memory(self.shape, self.workload, (first, last), alive, devices) for alive in (1, 2))
                once[first, last], more[first, last] = one, two - one
        return once, np.where(np.isfinite(more), more, 0.0)

    def of_kind(self, kind: int) -> tuple[Node, int]:
        """A machine with such slots, and how many devices each of them has."""
        return self._kind_nodes[kind], self._kind_devices[kind]

    @property
    def whole_work(self) -> tuple[Work, Work]:
        """One microbatch through all layers, forward and backward."""
        return self._sums[-1]

    def need_bytes(self, kind: int, layers: tuple[int, int], alive: int) -> int:
        return stage_memory(self.shape, self.workload, layers, alive, self._kind_devices[kind], self.buffered)

    def gradient_bytes(self, first: int, last: int) -> int:
        return self.shape.weight_bytes(first, last)

    @cached_property
    def microbatch_seconds(self) -> Floats:
        """By kind: a whole microbatch forth and back on one such slot, memory aside. Low is fast."""
        times = [self.seconds(kind) for kind in range(len(self.caps))]
        return np.array([forth[0, -1] + back[0, -1] for forth, back, _ in times])

    def load(self, source: int, target: int) -> LinkLoad:
        """One direction of a link, which carries the hidden state of a microbatch or its gradient."""
        values = self.workload.microbatch * self.workload.length * self.shape.hidden_size
        return LinkLoad(values, 8.0 * dtype_bytes(self.shape.dtype), float(self.bandwidth[source, target]))


def slots_of(pool: Pool, split_islands: bool) -> Sequence[Slot]:
    if split_islands:
        return [(index, (device,)) for index, node in enumerate(pool.nodes) for device in range(node.device_count)]
    return [(index, tuple(range(node.device_count))) for index, node in enumerate(pool.nodes)]
