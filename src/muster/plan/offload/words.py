"""What a policy does, in sentences for people. Knows no search."""

from collections.abc import Iterator

from muster.spec.plan import MemoryPolicy, Plan
from muster.spec.pool import Pool

_ORDERS = {
    "rows": "row by row: every microbatch through all layers, alone",
    "zigzag": "zig-zag: each layer for the whole block before the next",
    "diagonal": "diagonal: zig-zag, with new sequences joining as others end",
}


def policies_in_words(plan: Plan, pool: Pool) -> Iterator[tuple[str, str]]:
    """(machine, sentence) of every stage that keeps something outside its device."""
    names = {node.id: node.name for node in pool.nodes}
    for pipeline in plan.pipelines:
        for stage in pipeline.stages:
            if stage.memory.offloads:
                yield names[stage.node], policy_in_words(stage.memory)


def policy_in_words(memory: MemoryPolicy) -> str:
    """`weights 20 % on the device, 80 % in host memory; cache …; blocks of 4 × 32 sequences, zig-zag: …`"""
    parts = [
        _tiers("weights", memory.weights_on_device, memory.weights_on_host),
        _tiers("cache", memory.cache_on_device, memory.cache_on_host),
        _tiers("waiting hidden states", memory.activations_on_device, memory.activations_on_host),
    ]
    blocks = f"blocks of {memory.num_microbatches} × {memory.microbatch} sequences, {_ORDERS[memory.order]}"
    passes = f"up to {memory.prompt_tokens} prompt tokens at once" if memory.prompt_tokens else ""
    where = "on the host" if memory.attention == "host" else "on the device"
    attention = f"attention over cache elsewhere runs {where}" if memory.cache_on_device < 1 else ""
    return "; ".join(part for part in (*parts, blocks, passes, attention) if part)


def _tiers(what: str, device: float, host: float) -> str:
    disk = max(0.0, 1 - device - host)
    shares = [(device, "on the device"), (host, "in host memory"), (disk, "on disk")]
    told = [(share, where) for share, where in shares if share >= 5e-4]
    if len(told) == 1:
        return f"{what} {told[0][1]}"
    return f"{what} " + ", ".join(f"{share:.1%} {where}" for share, where in told)
