"""Whether a plan that somebody wrote down can be one at all: layers, machines, devices. Knows no memory, no speed."""

from muster.errors import InvalidRequest
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Plan
from muster.spec.pool import Pool

_PER_LAYER = ("layer_bytes", "layer_flops_per_token", "kv_bytes_per_token")
_PER_LAYER_OR_EMPTY = ("attention_flops_per_pair", "windows", "expert_bytes", "saved_bytes_per_token")


def check_shape(shape: ModelShape) -> None:
    """Raise `InvalidRequest` unless there is a size for every layer, and none is negative."""
    for key in (*_PER_LAYER, *_PER_LAYER_OR_EMPTY):
        sizes = getattr(shape, key)
        if len(sizes) != shape.num_layers and (sizes or key in _PER_LAYER):
            raise InvalidRequest(
                f"The model's {key} has {len(sizes)} entries for {shape.num_layers} layers; correct it."
            )
        if any(size < 0 for size in sizes):
            raise InvalidRequest(f"The model's {key} has a negative entry; correct it.")
    if min(shape.num_layers, shape.hidden_size, shape.vocab_size, shape.max_context) < 1:
        raise InvalidRequest("The model has no layers, width, words or context; correct its sizes.")


def check_plan(plan: Plan, pool: Pool, shape: ModelShape) -> None:
    """Raise `InvalidRequest` unless every pipeline covers every layer once and no device is used twice."""
    if not plan.pipelines:
        raise InvalidRequest("The plan has no pipeline; make one with `muster plan`.")
    devices = {node.id: node.device_count for node in pool.nodes}
    taken: set[tuple[str, int]] = set()
    for pipeline in plan.pipelines:
        _check_pipeline(pipeline, shape)
        for stage in pipeline.stages:
            if stage.node not in devices:
                raise InvalidRequest(f"The plan uses machine {stage.node!r}, which its pool lacks; correct either.")
            for device in stage.devices:
                if not 0 <= device < devices[stage.node]:
                    counted = f"{devices[stage.node]} of them" if devices[stage.node] > 1 else "one"
                    raise InvalidRequest(
                        f"The plan uses device {device} of {stage.node}, which has {counted}; correct it."
                    )
                if (stage.node, device) in taken:
                    raise InvalidRequest(f"The plan uses device {device} of {stage.node} twice; correct it.")
                taken.add((stage.node, device))


def _check_pipeline(pipeline: Pipeline, shape: ModelShape) -> None:
    following = 0
    for stage in pipeline.stages:
        if stage.first != following or stage.last <= stage.first or not stage.devices:
            layers = f"[{stage.first}, {stage.last})"
            raise InvalidRequest(f"The plan's stage on {stage.node} has layers {layers} after {following}; correct it.")
        following = stage.last
    if following != shape.num_layers:
        raise InvalidRequest(f"The plan's stages end at layer {following} of {shape.num_layers}; correct them.")
    if min(pipeline.num_pages, pipeline.batch, pipeline.swap_pages) < 0 or pipeline.page_size < 1:
        raise InvalidRequest("A pipeline of the plan has a negative number of pages; correct it.")
    if pipeline.num_microbatches < 1:
        raise InvalidRequest("A pipeline of the plan has no microbatch; give it at least 1.")
