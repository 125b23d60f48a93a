"""The forecast of a pipeline whose stages keep a part outside their devices: whole blocks, in closed form. Pure.

A block of B sequences takes a stage T_s seconds until each has its n tokens (`cost/offload/step`), and the pipeline has
as many blocks in flight as stages, S. All of them are done after

    max(S max T_s,  sum T_s + n x wires)            tokens per second = S B n / that

so links between stages cost nothing until the slowest stage waits for them. What overlaps within a stage is measured;
between stages nothing else is assumed than that a stage works on one block while others work on others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from muster.cost.offload.load import StageSizes, stage_sizes
from muster.cost.offload.rates import tier_rates, uses_host_in_place
from muster.cost.offload.room import cache_tokens, tier_bytes
from muster.cost.offload.shares import shares_of, size_of
from muster.cost.offload.step import ACTORS, BlockSize, Floats, Phase, phases, together
from muster.cost.pace import TYPICAL, Constants
from muster.cost.transfer import transfer_seconds
from muster.errors import DoesNotFit
from muster.spec.forecast import ServeForecast, StageForecast
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Plan, Stage
from muster.spec.pool import Node, Pool
from muster.spec.workload import ServeWorkload

_TIER_NAMES = "device memory", "host memory", "disk"


@dataclass(frozen=True)
class StageBlock:
    """One stage at work on blocks."""

    stage: Stage
    node: Node
    sizes: StageSizes
    size: BlockSize
    phases: tuple[Phase, ...]
    need: Floats
    """(3,) bytes of device, host and disk."""
    weights_bytes: float
    """On the device, without buffers."""
    cache_bytes: float
    x: Floats

    @property
    def seconds(self) -> float:
        """Until every sequence of a block has its answer."""
        return sum(self.phase_seconds)

    @property
    def phase_seconds(self) -> list[float]:
        """Of all times that each phase comes."""
        return [phase.times * together(phase.parts @ self.x, phase.hides) for phase in self.phases]

    @property
    def busy(self) -> dict[str, float]:
        """Seconds of each actor in that time."""
        total = sum((phase.times * (phase.parts @ self.x) for phase in self.phases), np.zeros(len(ACTORS)))
        return dict(zip(ACTORS, (float(each) for each in total), strict=True))

    @property
    def pass_s(self) -> float:
        """One token of each sequence."""
        last = self.phases[-1]
        return together(last.parts @ self.x, last.hides)


def stage_block(
    pipeline: Pipeline,
    stage: Stage,
    node: Node,
    shape: ModelShape,
    workload: ServeWorkload,
    constants: Constants = TYPICAL,
    skew: float = 0.0,
) -> StageBlock:
    sizes = stage_sizes(shape, stage.first, stage.last, skew)
    size = size_of(stage.memory, pipeline.serve, workload)
    x = np.append(shares_of(sizes, stage.memory), 1.0)
    in_place, resident = uses_host_in_place(node.device), stage.memory.weights_on_device >= 1
    need = tier_bytes(shape, stage.last, sizes, size, in_place, resident)
    groups = 3 * len(sizes.groups)
    weights = sum(group.nbytes * x[3 * number] for number, group in enumerate(sizes.groups))
    cache = size.blocks * cache_tokens(size) * sizes.cache_bytes * x[groups]
    rates = tier_rates(node.device, shape.dtype, constants)
    return StageBlock(stage, node, sizes, size, tuple(phases(sizes, rates, size)), need @ x, weights, cache, x)


def check_room(block: StageBlock) -> None:
    """Raise `DoesNotFit` where a tier lends less than the stage needs."""
    device = block.node.device
    lent = device.memory_bytes, device.host_memory_bytes, device.disk_bytes
    for name, need, has in zip(_TIER_NAMES, block.need, lent, strict=True):
        if need > has + 1:
            raise DoesNotFit(
                f"The stage on {block.node.name} needs {need / 1e9:.2f} GB of {name} and {has / 1e9:.2f} GB are lent; "
                "lend more, or plan anew."
            )


def offload_forecast(
    plan: Plan,
    pool: Pool,
    shape: ModelShape,
    workload: ServeWorkload,
    constants: Constants = TYPICAL,
    skew: float = 0.0,
) -> ServeForecast:
    """Of all pipelines together. Raises `DoesNotFit` where a tier is too small."""
    nodes = {node.id: node for node in pool.nodes}
    told = []
    for index, pipeline in enumerate(plan.pipelines):
        blocks = [
            stage_block(pipeline, stage, nodes[stage.node], shape, workload, constants, skew)
            for stage in pipeline.stages
        ]
        for block in blocks:
            check_room(block)
        told.append(_of_pipeline(index, blocks, pool))
    most = max(told, key=lambda one: one.tokens_per_s)
    total = sum(one.tokens_per_s for one in told)
    return ServeForecast(
        tokens_per_s=total,
        capacity_tokens_per_s=total,
        time_to_first_token_s=most.time_to_first_token_s,
        seconds_per_token=most.seconds_per_token,
        request_s=most.request_s,
        attainment=None,
        stages=tuple(stage for one in told for stage in one.stages),
        links=(),
        bottleneck=most.bottleneck,
    )


def period_s(stage_seconds: Sequence[float], size: BlockSize, around_s: float) -> float:
    """After which all blocks in flight are done; `around_s` takes a token of each sequence of a block."""
    return max(len(stage_seconds) * max(stage_seconds), sum(stage_seconds) + size.answer * around_s)


def around_s(nodes: Sequence[Node], pool: Pool, nbytes: int) -> float:
    """In which so many bytes go around the ring."""
    if len(nodes) < 2:
        return 0.0
    following = [*nodes[1:], nodes[0]]
    return sum(
        transfer_seconds(pool.link(one.id, other.id), nbytes) for one, other in zip(nodes, following, strict=True)
    )


def _of_pipeline(index: int, blocks: Sequence[StageBlock], pool: Pool) -> ServeForecast:
    size = blocks[0].size
    wires_s = around_s([block.node for block in blocks], pool, round(size.sequences * blocks[0].sizes.hidden_bytes))
    period = period_s([block.seconds for block in blocks], size, wires_s)
    slowest = max(blocks, key=lambda block: block.seconds)
    rate = len(blocks) * size.sequences * size.answer / period
    pass_s = max(len(blocks) * slowest.pass_s, sum(block.pass_s for block in blocks) + wires_s)
    first = sum(block.phase_seconds[0] / (size.answer if size.order == "diagonal" else 1) for block in blocks)
    return ServeForecast(
        tokens_per_s=rate,
        capacity_tokens_per_s=rate,
        time_to_first_token_s=first,
        seconds_per_token=pass_s,
        request_s=period,
        attainment=None,
        stages=tuple(_stage(index, block, block.seconds * len(blocks) / period) for block in blocks),
        links=(),
        bottleneck=binding(slowest),
    )


def _stage(index: int, block: StageBlock, share: float) -> StageForecast:
    stage = block.stage
    return StageForecast(
        pipeline=index,
        node=stage.node,
        devices=stage.devices,
        first=stage.first,
        last=stage.last,
        seconds=block.pass_s,
        share=min(1.0, share),
        weights_bytes=round(block.weights_bytes),
        cache_bytes=round(block.cache_bytes),
        other_bytes=max(0, round(block.need[0] - block.weights_bytes - block.cache_bytes)),
        cap_bytes=block.node.device.memory_bytes,
    )


_WHAT = {
    "compute": "computing on the device",
    "host_attention": "attention over the cache in host memory",
    "to_device": "what comes from host memory to the device",
    "from_device": "what goes from the device to host memory",
    "read": "reading from the disk",
    "write": "writing to the disk",
}


def binding(block: StageBlock) -> str:
    """Which limit binds, as a sentence, and what comes next."""
    busy = sorted(block.busy.items(), key=lambda pair: -pair[1])
    total = block.seconds
    (first, most), (second, next_) = busy[:2]
    says = f"{_WHAT[first]} on {block.node.name}, {most / total:.0%} of the time"
    return f"{says}, then {_WHAT[second]}, {next_ / total:.0%}" if next_ > 0 else says
