"""Plans, pools and shapes for the tests of the simulator. Knows no expected values."""

from collections.abc import Sequence
from dataclasses import replace

from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Plan, ServeSettings, Stage, TrainSettings
from muster.spec.pool import Device, LinkSpeed, Node, Pool

MIB = 2**20
GIB = 2**30


def shape(layers: int = 16, hidden: int = 1024, windows: tuple[int, ...] = (), experts: int = 0) -> ModelShape:
    """About 200 million parameters in 16 layers."""
    layer = 24 * MIB
    return ModelShape(
        name="model",
        architecture="LlamaForCausalLM",
        dtype="bfloat16",
        num_layers=layers,
        hidden_size=hidden,
        vocab_size=32000,
        max_context=32768,
        layer_bytes=(layer,) * layers,
        layer_flops_per_token=(layer // (experts or 1),) * layers,
        kv_bytes_per_token=(4 * hidden,) * layers,
        embedding_bytes=64 * MIB,
        head_bytes=64 * MIB,
        head_flops_per_token=64 * MIB,
        attention_flops_per_pair=(4 * hidden,) * layers,
        windows=windows,
        expert_bytes=(layer // 2,) * layers if experts else (),
        num_experts=experts,
        experts_per_token=2 if experts else 0,
    )


def node(name: str, speed: float = 1.0, devices: int = 1, memory_gib: float = 24) -> Node:
    device = Device(
        kind="cuda",
        name="test",
        memory_bytes=int(memory_gib * GIB),
        flops_per_s={"bfloat16": speed * 2e13},
        memory_bandwidth_bytes_per_s=speed * 3e11,
        host_bandwidth_bytes_per_s=1.2e10,
        host_memory_bytes=64 * GIB,
    )
    inside = LinkSpeed(1e-5, 1.2e10) if devices > 1 else None
    return Node(id=name, name=name, region="here", device=device, device_count=devices, inside=inside)


def pool(
    *nodes: Node,
    latency_s: float = 0.01,
    bandwidth: float = 1.25e8,
    links: dict[tuple[str, str], LinkSpeed] | None = None,
) -> Pool:
    return Pool(nodes=nodes, links=links or {}, default_link=LinkSpeed(latency_s, bandwidth))


def pipeline(
    names: Sequence[str],
    layers: int = 16,
    *,
    cuts: Sequence[int] | None = None,
    pages: int = 4096,
    page_size: int = 16,
    microbatches: int | None = None,
    batch: int = 0,
    swap_pages: int = 0,
) -> Pipeline:
    """Even cuts, unless some are given."""
    count = len(names)
    ends = [0, *(cuts or [layers * (i + 1) // count for i in range(count - 1)]), layers]
    stages = tuple(Stage(name, ends[i], ends[i + 1]) for i, name in enumerate(names))
    return Pipeline(stages, ServeSettings(pages, page_size, microbatches or count, batch, swap_pages))


def trained(*pipelines: Pipeline, standbys: tuple[str, ...] = ()) -> Plan:
    """The same cuts, for training."""
    works = (TrainSettings(pipeline.work.num_microbatches) for pipeline in pipelines)
    return plan(*(replace(one, work=work) for one, work in zip(pipelines, works, strict=True)), standbys=standbys)


def plan(*pipelines: Pipeline, standbys: tuple[str, ...] = ()) -> Plan:
    return Plan("model", pipelines, standbys)
