"""Fleets and model shapes for tests, and the brute force that the planner is held against."""

from collections.abc import Sequence
from itertools import combinations, pairwise, permutations
from math import inf

from muster.cost.codecs import message_bytes
from muster.cost.memory import stage_bytes
from muster.cost.pace import seconds
from muster.cost.transfer import transfer_seconds, wire_seconds
from muster.cost.work import decode
from muster.plan.quick.tables import PlanOptions
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Plan, Stage
from muster.spec.pool import Device, LinkSpeed, Node, Pool

MIB = 2**20


def shape(
    layers: int = 8, layer_mib: float = 100, context: int = 4096, hidden: int = 1024, sizes: Sequence[float] = ()
) -> ModelShape:
    """`sizes`: relative sizes of the layers where they are not alike."""
    layers = len(sizes) or layers
    parameters = [int(layer_mib * size * MIB / 2) for size in sizes or [1.0] * layers]
    return ModelShape(
        name="model",
        architecture="LlamaForCausalLM",
        dtype="bfloat16",
        num_layers=layers,
        hidden_size=hidden,
        vocab_size=1000,
        max_context=context,
        layer_bytes=tuple(2 * count for count in parameters),
        layer_flops_per_token=tuple(2 * count for count in parameters),
        kv_bytes_per_token=(4 * hidden,) * layers,
        embedding_bytes=20 * MIB,
        head_bytes=30 * MIB,
        head_flops_per_token=30 * MIB,
    )


def node(name: str, memory_mib: float = 1000, speed: float = 1.0, region: str = "here") -> Node:
    device = Device(
        kind="cpu",
        name="test",
        memory_bytes=int(memory_mib * MIB),
        flops_per_s={"bfloat16": speed * 1e12},
        memory_bandwidth_bytes_per_s=speed * 1e10,
    )
    return Node(id=name, name=name, region=region, device=device)


def pool(*nodes: Node, links: dict[tuple[str, str], LinkSpeed] | None = None) -> Pool:
    return Pool(nodes=nodes, links=links or {})


def check_plan(plan: Plan, model: ModelShape, fleet: Pool, options: PlanOptions) -> None:
    """Every layer once and in order, no cap exceeded, nobody twice, everybody either placed or on standby."""
    (pipeline,) = plan.pipelines
    ends = [0, *(stage.last for stage in pipeline.stages)]
    assert [stage.first for stage in pipeline.stages] == ends[:-1]
    assert ends[-1] == model.num_layers
    assert all(stage.first < stage.last for stage in pipeline.stages)
    caps = {node.id: node.device.memory_bytes for node in fleet.nodes}
    tokens = pipeline.serve.num_pages * pipeline.serve.page_size
    for stage in pipeline.stages:
        assert stage_bytes(model, stage.first, stage.last, tokens, options.workspace) <= caps[stage.node]
    used = pipeline.nodes()
    assert len(set(used)) == len(used)
    assert sorted([*used, *plan.standbys]) == sorted(caps)
    assert options.min_pages(model) <= pipeline.serve.num_pages <= options.max_pages(model)
    assert pipeline.serve.num_microbatches >= len(used)


def slowest(stages: tuple[Stage, ...], model: ModelShape, fleet: Pool, options: PlanOptions) -> float:
    """Seconds of the slowest stage or link, by the definition."""
    devices = {node.id: node.device for node in fleet.nodes}
    work = {s.node: decode(model, s.first, s.last, options.batch, options.context) for s in stages}
    times = [seconds(step, devices[node], model.dtype, options.constants) for node, step in work.items()]
    hops = pairwise(stages)
    nbytes = message_bytes(model, options.batch)
    return max([*times, *(wire_seconds(fleet.link(a.node, b.node), nbytes) for a, b in hops)])


def ring_seconds(stages: tuple[Stage, ...], model: ModelShape, fleet: Pool, options: PlanOptions) -> float:
    """From the first stage all around: latency and time on the wire of every hop."""
    if len(stages) == 1:
        return 0.0
    hops = zip(stages, (*stages[1:], stages[0]), strict=True)
    nbytes = message_bytes(model, options.batch)
    return sum(transfer_seconds(fleet.link(a.node, b.node), nbytes) for a, b in hops)


def every_pipeline(model: ModelShape, fleet: Pool, options: PlanOptions):
    """All pipelines that respect the caps with the least cache. Only for very small fleets."""
    tokens = options.min_pages(model) * options.page_size
    caps = {node.id: node.device.memory_bytes for node in fleet.nodes}
    for count in range(1, min(len(fleet.nodes), model.num_layers) + 1):
        for inner in combinations(range(1, model.num_layers), count - 1):
            ends = (*inner, model.num_layers)
            ranges = list(zip((0, *inner), ends, strict=True))
            needs = [stage_bytes(model, a, b, tokens, options.workspace) for a, b in ranges]
            for order in permutations(caps, count):
                if all(need <= caps[name] for need, name in zip(needs, order, strict=True)):
                    yield tuple(Stage(name, a, b) for name, (a, b) in zip(order, ranges, strict=True))


def best_by_brute_force(model: ModelShape, fleet: Pool, options: PlanOptions) -> float:
    return min(
        (slowest(stages, model, fleet, options) for stages in every_pipeline(model, fleet, options)), default=inf
    )
