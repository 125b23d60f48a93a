"""The quick planner in words: why this split, or by how much the model does not fit and what would make it fit."""

from collections.abc import Sequence

from muster.cost.memory import stage_bytes
from muster.errors import DoesNotFit, PoolUnavailable
from muster.plan.quick.tables import PlanOptions
from muster.plan.words import bytes_in_words, layers_in_words
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline
from muster.spec.pool import Node, Pool


def explain(pool: Pool, pipeline: Pipeline, step_seconds: float, ring_latency_s: float, why: str) -> str:
    """A few sentences for `--explain` and the status page."""
    names = {node.id: node.name for node in pool.nodes}
    parts = [
        f"{names.get(stage.node, stage.node[:8])} {layers_in_words(stage.first, stage.last)}"
        for stage in pipeline.stages
    ]
    sentences = [
        f"{why}: {' → '.join(parts)}.",
        f"Slowest stage {step_seconds * 1e3:.2f} ms per step; cache for {_cache(pipeline)}.",
    ]
    in_flight = pipeline.serve.num_microbatches
    if len(parts) > 1:
        sentences.append(f"{in_flight} steps in flight hide {ring_latency_s * 1e3:.0f} ms of links around the ring.")
    idle = len(pool.nodes) - len(parts)
    if idle:
        sentences.append(f"{idle} on standby: they would not make the ring faster by enough.")
    return " ".join(sentences)


def _cache(pipeline: Pipeline) -> str:
    work = pipeline.serve
    if not work.swap_pages:
        return f"{work.cache_tokens} tokens"
    return f"{work.host_tokens} tokens, {work.cache_tokens} at a time and the others in host memory"


def nobody_here(shape: ModelShape, options: PlanOptions) -> DoesNotFit:
    need = stage_bytes(shape, 0, shape.num_layers, _tokens(shape, options), options.workspace)
    return DoesNotFit(
        f"No machine lends memory to the pool yet and {shape.name} needs {bytes_in_words(need)}; "
        "let machines join with the ticket."
    )


def does_not_fit(shape: ModelShape, nodes: Sequence[Node], covered: int, options: PlanOptions) -> DoesNotFit:
    """`nodes` together cover layers [0, covered) at most; one more machine for the rest would make it fit."""
    tokens, layers = _tokens(shape, options), shape.num_layers
    whole = stage_bytes(shape, 0, layers, tokens, options.workspace)
    rest = stage_bytes(shape, covered, layers, tokens, options.workspace)
    lent = sum(node.device.memory_bytes for node in nodes)
    machines = "1 machine lends" if len(nodes) == 1 else f"{len(nodes)} machines lend"
    return DoesNotFit(
        f"{shape.name} needs {bytes_in_words(whole)} on one machine, more when split, with a cache for "
        f"{tokens} tokens; the pool's {machines} {bytes_in_words(lent)} and can hold {covered} of {layers} layers. "
        f"Add a machine that lends at least {bytes_in_words(rest * 1.05)}, or lend more with --memory."
    )


def links_are_down() -> PoolUnavailable:
    return PoolUnavailable(
        "The machines could hold the model, but links between them are down; check their firewalls or let others join."
    )


def _tokens(shape: ModelShape, options: PlanOptions) -> int:
    return options.min_pages(shape) * options.page_size
