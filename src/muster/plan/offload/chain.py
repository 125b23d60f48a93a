"""Several machines planned as one: which layers each holds, and how each uses its host memory and disk. No clock.

All stages work on the same blocks, so the sizes of microbatch and block and the order are common; shares and where
attention runs are each machine's own. For given sizes layers move from the slowest stage to the fastest while that
helps (`balanced`); the sizes climb from the best of a coarse grid (`plan_chain`). One machine is a chain of one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from muster.cost.memory import dtype_bytes
from muster.cost.offload.rates import tier_rates
from muster.cost.offload.step import BlockSize
from muster.cost.pace import TYPICAL, Constants
from muster.plan.offload.block import BlockPlan, BlockProblem, best_shares
from muster.sim.serve.offload import around_s, period_s
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Order
from muster.spec.pool import Node, Pool
from muster.spec.workload import ServeWorkload

Cuts = tuple[int, ...]
"""Where stages begin and end: 0, …, the number of layers; one more than machines."""


_USUAL_TOKENS = 1024
"""Of prompts that pass at once, where the search begins; where those do not fit, with as few as may be."""
_AS_GOOD = 0.01
"""Of plans this close to the best, the one with the smallest block: its requests wait least, and it needs least."""


@dataclass(frozen=True, slots=True)
class OffloadOptions:
    """What may be chosen from."""

    orders: tuple[Order, ...] = ("zigzag", "diagonal")
    attention_on_host: bool = True
    max_microbatch: int = 256
    max_microbatches: int = 256
    """In a block."""
    max_sequences: int = 8192
    """In all blocks together."""
    prompt_tokens: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192)
    """That may pass a layer at once."""
    skew: float = 0.0
    """Assumed of the use of experts; see `cost/offload/load`."""


@dataclass(frozen=True, slots=True)
class ChainPlan:
    cuts: Cuts
    stages: tuple[BlockPlan, ...]
    tokens_per_s: float

    @property
    def size(self) -> BlockSize:
        return self.stages[0].size


@dataclass
class OffloadChain:
    """The machines in the order of the pipeline, and everything that was worked out about them."""

    shape: ModelShape
    nodes: Sequence[Node]
    pool: Pool
    workload: ServeWorkload
    options: OffloadOptions = OffloadOptions()
    constants: Constants = TYPICAL
    solved: dict[tuple[int, int, int, BlockSize], BlockPlan | None] = field(default_factory=dict)
    seen: list[ChainPlan] = field(default_factory=list)

    def stage(self, machine: int, first: int, last: int, size: BlockSize) -> BlockPlan | None:
        """The better of attention on the device and on the host."""
        key = (machine, first, last, size)
        if key not in self.solved:
            device = self.nodes[machine].device
            rates = tier_rates(device, self.shape.dtype, self.constants)
            problem = BlockProblem(self.shape, first, last, device, rates, self.options.skew)
            found = [best_shares(problem, one) for one in self._with_attention(device.host_memory_bytes, size)]
            self.solved[key] = min((one for one in found if one), key=lambda one: one.seconds, default=None)
        return self.solved[key]

    def _with_attention(self, host_bytes: int, size: BlockSize) -> Iterator[BlockSize]:
        yield replace(size, attention="device")
        if self.options.attention_on_host and host_bytes:
            yield replace(size, attention="host")

    def plan(self, cuts: Cuts, size: BlockSize) -> ChainPlan | None:
        """What `sim/serve/offload` says of these cuts; None where a stage does not fit."""
        size = replace(size, blocks=len(self.nodes))
        stages = []
        for machine, (first, last) in enumerate(pairwise(cuts)):
            one = self.stage(machine, first, last, size) if last > first else None
            if one is None:
                return None
            stages.append(one)
        nbytes = size.sequences * self.shape.hidden_size * dtype_bytes(self.shape.dtype)
        period = period_s([one.seconds for one in stages], size, around_s(self.nodes, self.pool, nbytes))
        found = ChainPlan(cuts, tuple(stages), len(stages) * size.sequences * size.answer / period)
        self.seen.append(found)
        return found

    def balanced(self, cuts: Cuts, size: BlockSize) -> ChainPlan | None:
        """Layers move while the slowest stage gets faster by it; first many, then fewer, then one."""
        best = self.plan(cuts, size)
        step = max(1, self.shape.num_layers // 8)
        while step:
            better = [found for moved in _moves(best.cuts if best else cuts, step) if (found := self.plan(moved, size))]
            top = max(better, key=lambda one: one.tokens_per_s, default=None)
            if top is not None and (best is None or top.tokens_per_s > best.tokens_per_s * (1 + 1e-9)):
                best = top
            else:
                step //= 2
        return best


def _moves(cuts: Cuts, step: int) -> Iterator[Cuts]:
    """One cut, or several neighbouring ones together: then layers pass from the machine before them to that behind."""
    for first in range(1, len(cuts) - 1):
        for last in range(first, len(cuts) - 1):
            for by in (-step, step):
                moved = (*cuts[:first], *(cut + by for cut in cuts[first : last + 1]), *cuts[last + 1 :])
                if all(one < other for one, other in pairwise(moved)):
                    yield moved


def plan_chain(chain: OffloadChain, out_of_time: Callable[[], bool] = lambda: False) -> ChainPlan | None:
    """The best that is found; None where no block fits, not even one sequence."""
    cuts = by_memory(chain)
    starts: list[ChainPlan] = []
    for fit, tokens in ((chain.plan, _USUAL_TOKENS), (chain.plan, 1), (chain.balanced, 1)):
        if not starts:
            sizes = _coarse(chain, tokens)
            starts = [found for size in sizes if not out_of_time() and (found := fit(cuts, size))]
    starts.sort(key=lambda one: -one.tokens_per_s)
    for start in _unlike(starts):
        _climb(chain, start, out_of_time)
    best = max((one.tokens_per_s for one in chain.seen), default=0.0)
    enough = [one for one in chain.seen if one.tokens_per_s >= (1 - _AS_GOOD) * best]
    return min(enough, key=lambda one: (one.size.sequences, -one.tokens_per_s), default=None)


def lent_bytes(node: Node) -> int:
    """Of all tiers together."""
    return node.device.memory_bytes + node.device.host_memory_bytes + node.device.disk_bytes


def by_memory(chain: OffloadChain) -> Cuts:
    """Layers in proportion to what each machine lends, and a layer at least: where a search begins."""
    lent = [lent_bytes(node) for node in chain.nodes]
    layers, cuts = chain.shape.num_layers, [0]
    for machine in range(len(lent)):
        left = len(lent) - machine - 1
        even = cuts[-1] + round((layers - cuts[-1]) * lent[machine] / max(1, sum(lent[machine:])))
        cuts.append(layers if not left else min(max(even, cuts[-1] + 1), layers - left))
    return tuple(cuts)


def _coarse(chain: OffloadChain, prompt_tokens: int) -> Iterator[BlockSize]:
    """With about so many prompt tokens at once."""
    options, workload = chain.options, chain.workload
    most = most_sequences(chain)
    for microbatch in (1, 4, 16, 64):
        for count in (1, 4, 16, 64):
            if microbatch <= options.max_microbatch and microbatch * count <= most:
                yield BlockSize(
                    microbatch,
                    min(count, options.max_microbatches),
                    workload.prompt_tokens,
                    workload.output_tokens,
                    options.orders[-1],
                    "device",
                    _at_once(chain, microbatch, prompt_tokens),
                )


def most_sequences(chain: OffloadChain) -> int:
    """Of one block."""
    asked = chain.workload.concurrency or chain.options.max_sequences
    return max(1, min(asked, chain.options.max_sequences) // len(chain.nodes))


def _at_once(chain: OffloadChain, microbatch: int, prompt_tokens: int) -> int:
    fits = [tokens for tokens in chain.options.prompt_tokens if tokens >= microbatch] or [microbatch]
    return min(fits, key=lambda tokens: abs(tokens - prompt_tokens))


def _unlike(starts: Sequence[ChainPlan]) -> list[ChainPlan]:
    """The best, and the best with another size of microbatch."""
    return [*starts[:1], *[one for one in starts if one.size.microbatch != starts[0].size.microbatch][:1]]


def _climb(chain: OffloadChain, best: ChainPlan, out_of_time: Callable[[], bool]) -> ChainPlan:
    """To the best neighbour, again and again; cuts are mended as sizes change."""
    best = chain.balanced(best.cuts, best.size) or best
    while not out_of_time():
        found = [one for size in neighbours(chain, best.size) if (one := chain.plan(best.cuts, size))]
        top = max(found, key=lambda one: one.tokens_per_s, default=best)
        if top.tokens_per_s <= best.tokens_per_s * (1 + 1e-6):
            break
        best = chain.balanced(top.cuts, top.size) or top
    return best


def neighbours(chain: OffloadChain, size: BlockSize) -> Iterator[BlockSize]:
    options, most = chain.options, most_sequences(chain)
    size = replace(size, attention="device")
    for order in options.orders:
        yield replace(size, order=order)
    tokens = options.prompt_tokens
    yield from (replace(size, prompt_tokens=at_once) for at_once in tokens if at_once >= size.microbatch)
    b, k = size.microbatch, size.num_microbatches
    pairs = {(b2, k) for b2 in _near(b)} | {(b, k2) for k2 in _near(k)} | {(2 * b, k // 2), (b // 2, 2 * k)}
    for microbatch, count in sorted(pairs):
        possible = 1 <= microbatch <= options.max_microbatch and 1 <= count <= options.max_microbatches
        if possible and microbatch * count <= most:
            fits = max(size.prompt_tokens, min((t for t in tokens if t >= microbatch), default=microbatch))
            yield replace(size, microbatch=microbatch, num_microbatches=count, prompt_tokens=fits)


def _near(count: int) -> set[int]:
    return {count - 1, count + 1, count // 2, 2 * count, count * 3 // 4, -(-count * 5 // 4)}
