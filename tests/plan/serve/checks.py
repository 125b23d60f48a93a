"""What any serving plan must satisfy, written without the planner."""

from collections import Counter

from muster.cost.memory import WorkspaceOptions, device_bytes
from muster.cost.swapping import host_bytes
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Plan
from muster.spec.pool import Pool


def check_plan(plan: Plan, model: ModelShape, fleet: Pool) -> None:
    """Every layer once and in order in each pipeline, no cap exceeded, no device twice, idle machines on standby."""
    nodes = {node.id: node for node in fleet.nodes}
    taken: Counter[tuple[str, int]] = Counter()
    assert plan.pipelines
    for pipeline in plan.pipelines:
        ends = [0, *(stage.last for stage in pipeline.stages)]
        assert [stage.first for stage in pipeline.stages] == ends[:-1]
        assert ends[-1] == model.num_layers
        assert all(stage.first < stage.last for stage in pipeline.stages)
        assert 0 <= 2 * pipeline.serve.swap_pages <= pipeline.serve.num_pages
        assert pipeline.serve.batch >= 1
        assert pipeline.serve.num_microbatches >= 1
        options = WorkspaceOptions(samples=max(64, pipeline.serve.batch))
        tokens = pipeline.serve.num_pages * pipeline.serve.page_size
        for stage in pipeline.stages:
            node = nodes[stage.node]
            sizes = device_bytes(model, stage.first, stage.last, tokens, options, len(stage.devices))
            assert sum(sizes) <= node.device.memory_bytes
            swapped = host_bytes(model, stage.first, stage.last, pipeline.serve) / len(stage.devices)
            assert swapped <= node.device.host_memory_bytes
            assert all(0 <= device < node.device_count for device in stage.devices)
            taken.update((stage.node, device) for device in stage.devices)
    assert max(taken.values()) == 1
    used = {node for node, _ in taken}
    assert sorted([*used, *plan.standbys]) == sorted(nodes)
