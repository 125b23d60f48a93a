"""What every machine could hold and how long it would take, for every layer range at once. Knows nothing of order.

Everything grows with the range: if a machine can take [a, b) it can take any part of it. So for a bound on the
step time, one number per machine and start says it all: how far it can reach.

    reach[i, a] = the largest b such that machine i can hold layers [a, b) within its memory and the bound (a: none)

A machine of several devices is an island: all of them share whatever it holds (`plan/joint.py`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from muster.cost.codecs import message_bytes
from muster.cost.island import all_reduce_seconds, island_seconds
from muster.cost.layer_ranges import Floats, WorkTable, is_range, ranges, weight_table, work_table, workspace_row
from muster.cost.memory import WorkspaceOptions
from muster.cost.pace import TYPICAL, Constants, seconds
from muster.cost.transfer import transfer_seconds, wire_seconds
from muster.cost.work import Work, decode
from muster.spec.codec import RAW, Codec
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Stage
from muster.spec.pool import Device, LinkSpeed, Node, Pool

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """The few dials of the quick planner."""

    page_size: int = 16
    """Tokens per KV page."""
    min_context: int = 2048
    """A pipeline must at least hold the cache of one sequence this long (or of the model's full context)."""
    max_sequences: int = 64
    """No more cache is reserved than this many sequences of full length could fill."""
    batch: int = 32
    """Sequences in the decode step whose time is minimised."""
    batch_alone: int = 256
    """Most sequences in a step of a machine that serves alone, if it has room for their logits: nothing waits for it,
    and it reads its weights once for all of them."""
    context: int = 512
    """Cached tokens per sequence in that step."""
    worth: float = 0.1
    """A further machine must make the ring faster by this share, or it stays a standby."""
    max_microbatches: int = 32
    """Most steps in flight at once."""
    exact_nodes: int = 12
    """Up to this many machines the search is exact; of a larger pool the most useful ones are taken."""
    order_budget: int = 20_000
    """Most orders looked at while the ring's latency is minimised."""
    workspace: WorkspaceOptions = field(default_factory=WorkspaceOptions)
    fixed: tuple[Stage, ...] = ()
    """Stages that stay as they are, by their machines' pins (`plan.pinned`)."""
    codecs: tuple[Codec, ...] = (RAW,)
    """What links may carry, the mildest first; each gets the mildest that does not hold up the ring (`link_codecs`)."""
    constants: Constants = TYPICAL
    """Of the machines; see `cost.measured`."""

    def min_pages(self, shape: ModelShape) -> int:
        return -(-min(self.min_context, shape.max_context) // self.page_size)

    def max_pages(self, shape: ModelShape) -> int:
        return max(self.min_pages(shape), -(-self.max_sequences * shape.max_context // self.page_size))

    def work(self, shape: ModelShape, first: int, last: int) -> Work:
        """Of layers [first, last) in the decode step whose time is minimised."""
        return _decode(shape, first, last, self.batch, self.context)

    def step_seconds(self, shape: ModelShape, first: int, last: int, device: Device) -> float:
        """Of layers [first, last) on `device` in that step."""
        return seconds(self.work(shape, first, last), device, shape.dtype, self.constants)

    def stage_seconds(self, shape: ModelShape, stage: Stage, node: Node) -> float:
        """The same of a stage that several devices may share: as `cost.island.holder` has its machine."""
        work = self.work(shape, stage.first, stage.last)
        return island_seconds(work, shape, self.batch, node, stage.degree, self.constants)

    def message_bytes(self, shape: ModelShape, codec: Codec | None = None) -> int:
        """From a stage to the next in that step. Without a codec: the least that the link may carry."""
        codecs = self.codecs if codec is None else (codec,)
        return min(message_bytes(shape, self.batch, one) for one in codecs)

    def hop_seconds(self, shape: ModelShape, link: LinkSpeed, codec: Codec | None = None) -> float:
        """Until the next stage has them."""
        return transfer_seconds(link, self.message_bytes(shape, codec), self.constants.message_s)


class Tables:
    """Sizes and seconds of all ranges [a, b) as [L + 1, L + 1] arrays, caps of `nodes` as a vector."""

    def __init__(self, shape: ModelShape, nodes: Sequence[Node], pool: Pool, options: PlanOptions) -> None:
        self.shape, self.nodes, self.options, self.pool = shape, tuple(nodes), options, pool
        self.num_layers = shape.num_layers
        degrees = np.array([node.device_count for node in nodes], dtype=np.float64)[:, None, None]
        self._page = np.ceil(ranges(shape.kv_bytes_per_token) * options.page_size / degrees)
        self._fixed = np.ceil(weight_table(shape) / degrees) + workspace_row(shape, options.workspace)
        self._real = is_range(self.num_layers)
        self.caps = np.array([node.device.memory_bytes for node in nodes], dtype=np.float64)
        table_s = [self._seconds_of(node) for node in nodes]
        self.seconds = np.array(table_s).reshape(len(nodes), *self._real.shape)
        """[machine, first, last]: of the decode step that `options` names."""

    def _seconds_of(self, node: Node) -> Floats:
        shape, options, degree = self.shape, self.options, node.device_count
        work = _work_table(shape, options.batch, options.context)
        if degree == 1:
            return seconds(work, node.device, shape.dtype, options.constants)
        each_s = all_reduce_seconds(shape, options.batch, node, degree, options.constants)
        part_s = seconds(work.times(1 / degree), node.device, shape.dtype, options.constants)
        return np.asarray(part_s + work.layers * each_s)

    def need(self, pages: int) -> Floats:
        """[machine, first, last]: bytes of each device of a machine with `pages` KV pages."""
        return np.asarray(self._fixed + pages * self._page)

    def reach(self, bound_s: float, pages: int) -> Ints:
        """How far each machine can go from each start (see the map above)."""
        fits = self.need(pages) <= self.caps[:, None, None]
        fits &= self._real
        fits &= self.seconds <= bound_s
        return np.asarray(fits.sum(axis=2) + np.arange(self.num_layers + 1), dtype=np.int64)

    def times(self, pages: int, first: int, last: int) -> Floats:
        """Every step time that could be the slowest of some pipeline over [first, last), ascending."""
        fits = (self.need(pages) <= self.caps[:, None, None]) & self._real
        inside = self.seconds[:, first:, : last + 1][fits[:, first:, : last + 1]]
        return np.unique(np.concatenate([inside, self.wire[np.isfinite(self.wire)]]))

    def link(self, source: int, target: int) -> LinkSpeed:
        return self.pool.link(self.nodes[source].id, self.nodes[target].id)

    @cached_property
    def wire(self) -> Floats:
        """Seconds for which a step's hidden state keeps each link busy."""
        nbytes = self.options.message_bytes(self.shape)
        return self._square(lambda i, j: wire_seconds(self.link(i, j), nbytes))

    @cached_property
    def latency(self) -> Floats:
        """Seconds until a step's hidden state has arrived."""
        return self._square(lambda i, j: self.options.hop_seconds(self.shape, self.link(i, j)))

    def _square(self, value: Callable[[int, int], float]) -> Floats:
        count = range(len(self.nodes))
        return np.array([[value(i, j) if i != j else 0.0 for j in count] for i in count]).reshape(len(count), -1)

    def only(self, indices: Sequence[int]) -> "Tables":
        """The same tables for some of the machines, in the given order."""
        return Tables(self.shape, [self.nodes[i] for i in indices], self.pool, self.options)


_decode = lru_cache(maxsize=1024)(decode)
"""Plans are weighed over the same ranges again and again."""


@lru_cache(maxsize=8)
def _work_table(shape: ModelShape, batch: int, context: int) -> WorkTable:
    return work_table([decode(shape, layer, layer + 1, batch, context) for layer in range(shape.num_layers)])
