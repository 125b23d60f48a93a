"""Whether a plan that somebody wrote down can be one at all: sizes, layers, machines, devices. Knows no cost, no speed.

What is needed of a machine's memory is known where costs are; that is checked beside the forecast.
"""

from collections.abc import Iterable
from math import inf, isfinite

from msgspec.structs import asdict

from muster.errors import InvalidRequest
from muster.spec.model_shape import ModelShape
from muster.spec.plan import CodedLink, MemoryPolicy, Pipeline, Plan, ServeSettings, Stage, WorkSettings
from muster.spec.pool import Node, Pool
from muster.spec.workload import TrainWorkload

MOST = 10**9
"""Of anything that is counted: layers, pages, sequences."""
MAX_SIZE = 10**18
"""Of bytes or FLOPs of a layer. Both bounds are far from anything that exists; sums stay within what floats hold."""
_COUNTS = ("num_layers", "hidden_size", "vocab_size", "max_context")
_PER_LAYER = ("layer_bytes", "layer_flops_per_token", "kv_bytes_per_token")
_PER_LAYER_OR_EMPTY = ("attention_flops_per_pair", "windows", "expert_bytes", "saved_bytes_per_token")
_AT_LEAST_ONE = ("num_pages", "page_size", "num_microbatches", "microbatch")
_ONCE = ("embedding_bytes", "head_bytes", "head_flops_per_token", "num_experts", "experts_per_token")


def check_shape(shape: ModelShape) -> None:
    """Raise `InvalidRequest` unless there is a size for every layer, and none is negative or beyond all measure."""
    for key in _COUNTS:
        _check_range(f"The model's {key}", getattr(shape, key), 1, MOST)
    for key in _ONCE:
        _check_range(f"The model's {key}", getattr(shape, key), 0, MAX_SIZE)
    most = min(shape.embedding_bytes, shape.head_bytes)
    _check_range("The model's tied_bytes", shape.tied_bytes, 0, most)
    for key in (*_PER_LAYER, *_PER_LAYER_OR_EMPTY):
        sizes = getattr(shape, key)
        if len(sizes) != shape.num_layers and (sizes or key in _PER_LAYER):
            raise InvalidRequest(
                f"The model's {key} has {len(sizes)} entries for {shape.num_layers} layers; correct it."
            )
        for layer, size in enumerate(sizes):
            _check_range(f"The model's {key} of layer {layer}", size, 0, MAX_SIZE)


def check_training(plan: Plan, workload: TrainWorkload) -> None:
    """Raise `InvalidRequest` on counts below one or beyond all measure, and on a plan for another batch."""
    for key in ("sequences", "length", "microbatch"):
        _check_range(f"The workload's {key}", getattr(workload, key), 1, MOST)
    dealt = sum(pipeline.train.num_microbatches for pipeline in plan.pipelines) * workload.microbatch
    if not workload.sequences <= dealt < workload.sequences + len(plan.pipelines) * workload.microbatch:
        raise InvalidRequest(
            f"The plan's microbatches hold {dealt:,} texts and the workload has {workload.sequences:,}; correct either."
        )


def check_plan(plan: Plan, pool: Pool, shape: ModelShape) -> None:
    """Raise `InvalidRequest` unless every pipeline covers every layer once and no device is used twice."""
    if not plan.pipelines:
        raise InvalidRequest("The plan has no pipeline; make one with `muster plan`.")
    if len({type(pipeline.work) for pipeline in plan.pipelines}) > 1:
        raise InvalidRequest("The plan has pipelines that serve and others that train; make one plan for each.")
    if plan.model != shape.name:
        raise InvalidRequest("The plan is for another model than the one whose sizes stand beside it; correct either.")
    if not 0 <= plan.step_seconds < inf:
        raise InvalidRequest("The plan's step_seconds must be 0 or more, and finite; correct it.")
    nodes = {node.id: node for node in pool.nodes}
    for pipeline in plan.pipelines:
        _check_work(pipeline.work)
        _check_cover(pipeline, shape)
    _check_devices([stage for pipeline in plan.pipelines for stage in pipeline.stages], nodes)
    used = {node for pipeline in plan.pipelines for node in pipeline.nodes()}
    for node in plan.standbys:
        _check_known(node, nodes)
        if node in used:
            raise InvalidRequest(f"The plan has {node} both at work and standing by; correct it.")
    for link in plan.codecs:
        _check_codec(link, nodes)


def _check_work(work: WorkSettings) -> None:
    for name, amount in asdict(work).items():
        if isinstance(amount, int):
            _check_range(f"A pipeline's {name} in the plan", amount, int(name in _AT_LEAST_ONE), MOST)
    if isinstance(work, ServeSettings) and 2 * work.swap_pages > work.num_pages:
        raise InvalidRequest("A pipeline of the plan swaps through more than half of its pages; give it more of them.")


def _check_cover(pipeline: Pipeline, shape: ModelShape) -> None:
    following = 0
    for stage in pipeline.stages:
        if stage.first != following or stage.last <= stage.first or not stage.devices:
            says = f"begins at layer {stage.first} and ends before {stage.last}, where {following} is next"
            raise InvalidRequest(f"The plan's stage on {stage.node} {says}; correct it.")
        following = stage.last
        _check_memory(stage.memory, stage.node)
    if following != shape.num_layers:
        raise InvalidRequest(f"The plan's stages end at layer {following} of {shape.num_layers}; correct them.")


def _check_memory(memory: MemoryPolicy, node: str) -> None:
    broken = memory.broken_share()
    if broken is not None:
        raise InvalidRequest(f"The plan keeps {broken} of {node} in shares that make no whole; correct it.")
    for what, least in (("microbatch", 0), ("num_microbatches", 1), ("prompt_tokens", 0)):
        _check_range(f"The plan's {what} of {node}", getattr(memory, what), least, MOST)


def _check_devices(stages: Iterable[Stage], nodes: dict[str, Node]) -> None:
    taken: set[tuple[str, int]] = set()
    for stage in stages:
        _check_known(stage.node, nodes)
        count = nodes[stage.node].device_count
        for device in stage.devices:
            if not 0 <= device < count:
                counted = f"{count} of them" if count > 1 else "one"
                raise InvalidRequest(f"The plan uses device {device} of {stage.node}, which has {counted}; correct it.")
            if (stage.node, device) in taken:
                raise InvalidRequest(f"The plan uses device {device} of {stage.node} twice; correct it.")
            taken.add((stage.node, device))
        for other in stage.others:
            _check_known(other, nodes)
            if (other, 0) in taken:
                raise InvalidRequest(f"The plan uses {other} twice; correct it.")
            taken.add((other, 0))


def _check_known(node: str, nodes: dict[str, Node]) -> None:
    if node not in nodes:
        raise InvalidRequest(f"The plan uses machine {node!r}, which its pool lacks; correct either.")


def _check_codec(link: CodedLink, nodes: dict[str, Node]) -> None:
    for node in (link.source, link.target):
        _check_known(node, nodes)
    figures = (link.codec.bits_per_value, link.codec.state_bytes_per_value, link.codec.distortion)
    if not all(isfinite(figure) and 0 <= figure <= 64 for figure in figures):
        raise InvalidRequest(f"The plan's codec {link.codec.name!r} has a figure outside 0 to 64; correct it.")


def _check_range(what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InvalidRequest(f"{what} must lie between {least} and {most:,}; correct it, or plan anew.")
