"""What every machine could hold and how long it would take, for every layer range at once. Knows nothing of order.

Everything grows with the range: if a machine can take [a, b) it can take any part of it. So for a bound on the
step time, one number per machine and start says it all: how far it can reach.

    reach[i, a] = the largest b such that machine i can hold layers [a, b) within its memory and the bound (a: none)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from muster.cost.memory import WorkspaceOptions, workspace_bytes
from muster.cost.roofline import flops_per_s, hidden_bytes, memory_bandwidth, wire_seconds
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Stage
from muster.spec.pool import LinkSpeed, Node, Pool

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


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

    def min_pages(self, shape: ModelShape) -> int:
        return -(-min(self.min_context, shape.max_context) // self.page_size)

    def max_pages(self, shape: ModelShape) -> int:
        return max(self.min_pages(shape), -(-self.max_sequences * shape.max_context // self.page_size))


class Tables:
    """Sizes of all ranges [a, b) as [L + 1, L + 1] arrays, speeds and caps of `nodes` as vectors."""

    def __init__(self, shape: ModelShape, nodes: Sequence[Node], pool: Pool, options: PlanOptions) -> None:
        self.shape, self.nodes, self.options, self.pool = shape, tuple(nodes), options, pool
        self.num_layers = shape.num_layers
        head = np.zeros((self.num_layers + 1, self.num_layers + 1), dtype=np.float64)
        head[:, -1] = 1.0
        tail = np.where(np.arange(self.num_layers + 1) == 0, float(shape.embedding_bytes), 0.0)
        layers = _ranges(shape.layer_bytes)
        cache = _ranges(shape.kv_bytes_per_token)
        self._read = layers + head * shape.head_bytes + options.batch * options.context * cache
        flops = _ranges(shape.layer_flops_per_token) + head * shape.head_flops_per_token
        self._flops = options.batch * flops
        self._page = cache * options.page_size
        logits = workspace_bytes(shape, shape.num_layers, options.workspace)
        plain = workspace_bytes(shape, -1, options.workspace)
        self._fixed = layers + head * (shape.head_bytes + logits - plain) + tail[:, None] + plain
        self._fixed[0, -1] -= shape.tied_bytes
        index = np.arange(self.num_layers + 1)
        self._real = index[None, :] > index[:, None]
        self.caps = np.array([node.device.memory_bytes for node in nodes], dtype=np.float64)
        self.speeds = np.array([flops_per_s(node.device, shape.dtype) for node in nodes])
        self.bandwidths = np.array([memory_bandwidth(node.device) for node in nodes])
        self.seconds = np.maximum(self._read / self.bandwidths[:, None, None], self._flops / self.speeds[:, None, None])

    def need(self, pages: int) -> Floats:
        """Bytes that each range needs with `pages` KV pages."""
        return self._fixed + pages * self._page

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
        nbytes = hidden_bytes(self.shape, self.options.batch)
        return self._square(lambda i, j: wire_seconds(self.link(i, j), nbytes))

    @cached_property
    def latency(self) -> Floats:
        """Seconds until a step's hidden state has arrived."""
        nbytes = hidden_bytes(self.shape, self.options.batch)
        return self._square(lambda i, j: self.link(i, j).latency_s + wire_seconds(self.link(i, j), nbytes))

    def _square(self, value: Callable[[int, int], float]) -> Floats:
        count = range(len(self.nodes))
        return np.array([[value(i, j) if i != j else 0.0 for j in count] for i in count]).reshape(len(count), -1)

    def only(self, indices: Sequence[int]) -> "Tables":
        """The same tables for some of the machines, in the given order."""
        return Tables(self.shape, [self.nodes[i] for i in indices], self.pool, self.options)


def _ranges(values: Sequence[int]) -> Floats:
    """[a, b] -> sum of values[a:b] (negative where b < a; those are never looked at)."""
    sums = np.concatenate([[0.0], np.cumsum(np.array(values, dtype=np.float64))])
    return np.asarray(sums[None, :] - sums[:, None])
