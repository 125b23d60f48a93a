"""Small pools for training: machines of different speed and memory, links drawn or alike."""

import numpy as np

from muster.cost.named_shapes import named_shape
from muster.spec.model_shape import ModelShape
from muster.spec.pool import Device, LinkSpeed, Node, Pool
from muster.spec.workload import TrainWorkload

GIB = 2**30
WORKLOAD = TrainWorkload(sequences=24, length=512, microbatch=1)


def small_shape(layers: int = 6) -> ModelShape:
    """The first layers of GPT-2."""
    whole = named_shape("gpt2")
    per_layer = {
        name: getattr(whole, name)[:layers]
        for name in (
            "layer_bytes",
            "layer_flops_per_token",
            "kv_bytes_per_token",
            "attention_flops_per_pair",
            "windows",
            "expert_bytes",
            "saved_bytes_per_token",
        )
    }
    fields = {name: getattr(whole, name) for name in whole.__slots__}
    return ModelShape(**{**fields, **per_layer, "num_layers": layers})


def machine(name: str, speed: float = 1.0, memory_gib: float = 16, devices: int = 1) -> Node:
    device = Device(
        kind="cuda",
        name="test",
        memory_bytes=int(memory_gib * GIB),
        flops_per_s={"bfloat16": speed * 1e13, "float32": speed * 5e12},
        memory_bandwidth_bytes_per_s=speed * 3e11,
    )
    inside = LinkSpeed(1e-5, 2e10) if devices > 1 else None
    return Node(id=name, name=name, region="", device=device, device_count=devices, inside=inside)


def drawn_pool(count: int, seed: int, memory_gib: tuple[float, ...] = (16.0,), islands: bool = False) -> Pool:
    """Speeds of one to four, and every link drawn anew."""
    rng = np.random.default_rng(seed)
    nodes = [
        machine(
            f"m{i}",
            float(rng.choice([1.0, 2.0, 4.0])),
            float(rng.choice(memory_gib)),
            int(rng.choice([1, 2])) if islands else 1,
        )
        for i in range(count)
    ]
    links = {
        (a.id, b.id): LinkSpeed(float(rng.uniform(0, 0.05)), float(rng.choice([1e7, 1e8, 1e9])))
        for a in nodes
        for b in nodes
        if a is not b
    }
    return Pool(tuple(nodes), links)
