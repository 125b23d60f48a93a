"""Small models and machines whose policies can be counted out. All bytes are few, so that figures are easy to read."""

from dataclasses import replace

from muster.spec.model_shape import ModelShape
from muster.spec.pool import Device, Node, Pool
from muster.spec.tiers import TierRates


def shape(layers: int = 6, layer_bytes: int = 10_000_000, experts: int = 0, cache: int = 2_000) -> ModelShape:
    per_token = 2 * layer_bytes // 2 // max(1, experts)
    return ModelShape(
        name="small",
        architecture="Small",
        dtype="float16",
        num_layers=layers,
        hidden_size=512,
        vocab_size=100,
        max_context=4096,
        layer_bytes=(layer_bytes,) * layers,
        layer_flops_per_token=(per_token,) * layers,
        kv_bytes_per_token=(cache,) * layers,
        embedding_bytes=100_000,
        head_bytes=100_000,
        head_flops_per_token=100_000,
        attention_flops_per_pair=(2 * 512 * 2,) * layers,
        expert_bytes=(layer_bytes * 9 // 10,) * layers if experts else (),
        num_experts=experts,
        experts_per_token=1 if experts else 0,
    )


RATES = TierRates(
    device_bytes_per_s=1e11,
    device_attention_bytes_per_s=1e11,
    to_device_bytes_per_s=1e9,
    from_device_bytes_per_s=1e9,
    disk_read_bytes_per_s=2e8,
    disk_write_bytes_per_s=1e8,
    host_attention_bytes_per_s=1e9,
    matmul_flops_per_s=((1, 2e11), (64, 4e12)),
    attention_flops_per_s=2e12,
    layer_s=1e-5,
    copy_s=1e-6,
    step_s=1e-4,
    copies_overlap=0.9,
    disk_overlap=0.95,
    attention_overlap=0.8,
)


def machine(
    device: float = 60e6, host: float = 200e6, disk: float = 0.0, name: str = "ada", kind: str = "cuda", **rates: float
) -> Node:
    """In bytes."""
    tiers = replace(RATES, **rates)
    lent = Device(kind, "", int(device), host_memory_bytes=int(host), disk_bytes=int(disk), tiers=tiers)
    return Node(name, name, "", lent)


def pool(*nodes: Node) -> Pool:
    return Pool(nodes)
