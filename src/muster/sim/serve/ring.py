"""One serving pipeline on its machines: what a step costs on each stage and hop, and what its pages hold.

head -> stage 1 -> ... -> last -> head      the last hop carries token ids only
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

from muster.cost.codecs import message_bytes
from muster.cost.island import SLOWEST_INSIDE, holder
from muster.cost.memory import SCORED_AT_ONCE
from muster.cost.pace import Constants
from muster.cost.swapping import swap_bytes_per_s
from muster.errors import DoesNotFit, InvalidRequest, PoolUnavailable
from muster.sim.serve.stage_time import StagePace, StepLoad
from muster.spec.codec import RAW
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Plan, Stage
from muster.spec.pool import LinkSpeed, Node, NodeId, Pool

SAMPLE_BYTES = 16
"""A token id on its way back to the head, with what frames it."""
CODEC_GRAIN_TOKENS = 1024
"""Bytes per token on the wire are taken from a message of so many, so that rounding does not count."""


MAX_SLOTS = 4096
"""Most sequences that run at once on one ring."""


@dataclass(frozen=True, slots=True)
class BatchRules:
    """How the head fills a step, as `serve/options.py` has it."""

    prefill_tokens: int = 512
    """Most prompt tokens in one step."""
    max_batch: int = SCORED_AT_ONCE
    """Most sequences in one step, where the plan names no batch."""
    learns: bool = False
    """Whether the head goes on from the plan's steps in flight to as many as its own steps ask for, as engines do. A
    plan that was made for this pool and this load says as many."""


class Pace(Protocol):
    """How long a stage takes."""

    def seconds(self, load: StepLoad) -> float: ...

    def spared_s(self, idle_s: float, last_s: float) -> float: ...

    def parts(self, load: StepLoad) -> tuple[float, float, float]: ...


@dataclass(frozen=True, slots=True)
class MeasuredPace:
    """A stage that was measured: so many seconds a step, whatever is in it."""

    step_s: float

    def seconds(self, load: StepLoad) -> float:
        return self.step_s

    def spared_s(self, idle_s: float, last_s: float) -> float:
        return 0.0

    def parts(self, load: StepLoad) -> tuple[float, float, float]:
        return 0.0, 0.0, self.step_s


@dataclass(frozen=True, slots=True)
class Hop:
    """From a stage to the next. The latency counts what each message costs at both ends as well."""

    source: Node
    target: Node
    link: LinkSpeed
    token_bytes: float
    sample_bytes: float

    def nbytes(self, load: StepLoad) -> float:
        return load.tokens * self.token_bytes + load.samples * self.sample_bytes

    def wire_s(self, load: StepLoad) -> float:
        """For how long a step keeps the link busy."""
        return self.nbytes(load) / self.link.bandwidth_bytes_per_s


class Ring:
    """`plan.pipelines[index]`. `stage_seconds` are measured step times of some nodes; the others are computed."""

    def __init__(
        self,
        plan: Plan,
        index: int,
        pool: Pool,
        shape: ModelShape,
        constants: Constants,
        rules: BatchRules = BatchRules(),
        stage_seconds: Mapping[NodeId, float] | None = None,
    ) -> None:
        """Raises `InvalidRequest` on a machine that the pool has not, `PoolUnavailable` on a dead link."""
        self.index, self.pipeline, self.shape = index, plan.pipelines[index], shape
        nodes = {node.id: node for node in pool.nodes}
        self.stages = self.pipeline.stages
        self.nodes = tuple(_node(pool, nodes, stage) for stage in self.stages)
        measured = stage_seconds or {}
        self.paces: tuple[Pace, ...] = tuple(
            MeasuredPace(measured[node.id]) if node.id in measured else StagePace(shape, stage, node, constants)
            for stage, node in zip(self.stages, self.nodes, strict=True)
        )
        self.alike = tuple(_first_like(self.paces, i) for i in range(len(self.paces)))
        """For each stage the first one that takes the same time for the same step."""
        self.hops = _hops(plan, self.nodes, pool, shape, constants.message_s)
        self.hops_s = sum(hop.link.latency_s for hop in self.hops)
        # With one stage nothing is ever in flight; the engine then runs one step at a time.
        self.in_flight = self.pipeline.serve.num_microbatches if self.hops else 1
        # A prompt makes a step long, and every step behind it waits: the plan may say how much of one a step takes.
        asked = self.pipeline.serve.prefill_tokens
        self.rules = replace(rules, prefill_tokens=asked) if asked else rules
        self.max_batch = self.pipeline.serve.batch or rules.max_batch
        self.max_sequences = min(MAX_SLOTS, self.max_batch * self.in_flight)
        self.swap_s = self._swap_seconds()

    @property
    def num_pages(self) -> int:
        """That all microbatches together can fill, with those in host memory."""
        return self.pipeline.serve.all_pages if self.hops else self.pipeline.serve.num_pages

    def swapping_s(self, used_pages: float) -> float:
        """In a step where sequences hold so many pages: each microbatch swaps its part of those beyond the others'."""
        serve = self.pipeline.serve
        if not serve.swap_pages:
            return 0.0
        beyond = (used_pages - serve.num_pages + 2 * serve.swap_pages) / self.in_flight
        return self.swap_s * min(1.0, max(0.0, beyond / serve.swap_pages))

    def _swap_seconds(self) -> float:
        """To move one full slice in while another moves out, on the stage where that takes longest."""
        tokens = self.pipeline.serve.swap_pages * self.pipeline.serve.page_size
        return (
            max(
                tokens * self.shape.cache_bytes_per_token(stage.first, stage.last) / stage.degree / _host(node)
                for stage, node in zip(self.stages, self.nodes, strict=True)
            )
            if tokens
            else 0.0
        )

    def check_fits(self, prompt_tokens: int, output_tokens: int) -> None:
        """Raises `DoesNotFit` if one request alone does not fit into the pages. The last token is never computed."""
        pages = pages_for(prompt_tokens + output_tokens - 1, self.pipeline.serve.page_size)
        if pages > self.num_pages:
            raise DoesNotFit(
                f"A request of {prompt_tokens} + {output_tokens} tokens needs {pages} pages and pipeline {self.index} "
                f"has {self.num_pages}; plan with more cache, or send shorter requests."
            )

    def resident(self, prompt_tokens: int, output_tokens: int) -> float:
        """Sequences that run at once when there is no end of them.

        A sequence holds pages for what it has, on the mean over its life; and the head admits another only if one more
        page for each would still be there.
        """
        self.check_fits(prompt_tokens, output_tokens)
        each = mean_pages(prompt_tokens, output_tokens, self.pipeline.serve.page_size)
        return max(1.0, min(self.max_sequences, (self.num_pages + 1) / (each + 1)))


def _first_like(paces: Sequence[Pace], index: int) -> int:
    pace = paces[index]
    if not isinstance(pace, StagePace):
        return index
    return next(i for i, other in enumerate(paces) if isinstance(other, StagePace) and pace.is_like(other))


def pages_for(tokens: int, page_size: int) -> int:
    return -(-tokens // page_size)


def mean_pages(prompt_tokens: int, output_tokens: int, page_size: int) -> float:
    """That a running sequence holds, over its life."""
    total = _pages_of_all(prompt_tokens + output_tokens - 1, page_size) - _pages_of_all(prompt_tokens - 1, page_size)
    return total / output_tokens


def _pages_of_all(tokens: int, page_size: int) -> int:
    """Pages of a sequence of 1 token, plus those of one of 2 tokens, and so on to `tokens`."""
    full, rest = divmod(tokens, page_size)
    return page_size * full * (full + 1) // 2 + rest * (full + 1)


def _host(node: Node) -> float:
    bandwidth = swap_bytes_per_s(node.device)
    if bandwidth <= 0:
        raise InvalidRequest(
            f"The plan swaps cache on {node.name}, which lends no host memory, or nobody knows how fast that is; give "
            "host_memory_bytes and host_bandwidth_bytes_per_s in the pool file, or plan without swap."
        )
    return bandwidth


def _node(pool: Pool, nodes: Mapping[NodeId, Node], stage: Stage) -> Node:
    if absent := next((node for node in stage.members if node not in nodes), ""):
        raise InvalidRequest(f"The plan uses {absent[:16]}, which the pool has not; plan again on this pool.", "plan")
    node = holder(pool, nodes, stage)
    if node.inside is not None and node.inside.bandwidth_bytes_per_s <= 0:
        raise PoolUnavailable(f"A link inside the island of {node.name} is down; plan without it, or mend it.")
    return node


def _hops(plan: Plan, nodes: tuple[Node, ...], pool: Pool, shape: ModelShape, message_s: float) -> tuple[Hop, ...]:
    if len(nodes) == 1:
        return ()

    def link(source: Node, target: Node) -> LinkSpeed:
        known = link_between(pool, source, target)
        return replace(known, latency_s=known.latency_s + message_s)

    forth = tuple(
        Hop(source, target, link(source, target), _token_bytes(plan, shape, source, target), 0.0)
        for source, target in pairwise(nodes)
    )
    return (*forth, Hop(nodes[-1], nodes[0], link(nodes[-1], nodes[0]), 0.0, SAMPLE_BYTES))


def link_between(pool: Pool, source: Node, target: Node) -> LinkSpeed:
    """Also between two stages on one machine. Raises `PoolUnavailable` where nothing passes."""
    if source.id == target.id:
        return source.inside or SLOWEST_INSIDE
    link = pool.link(source.id, target.id)
    if link.bandwidth_bytes_per_s <= 0:
        raise PoolUnavailable(f"The link {source.name} -> {target.name} is down; plan without it, or mend it.")
    return link


def _token_bytes(plan: Plan, shape: ModelShape, source: Node, target: Node) -> float:
    codec = plan.codec(source.id, target.id) or RAW
    return message_bytes(shape, CODEC_GRAIN_TOKENS, codec) / CODEC_GRAIN_TOKENS
