"""Pins checked against the pool and the model, and told to the search. Knows no search."""

from collections.abc import Mapping, Sequence

from muster.cost.memory import stage_bytes
from muster.plan.serve import refusals
from muster.plan.serve.fleet import Fleet
from muster.plan.serve.layout import Layout, team
from muster.plan.serve.options import Pin, ServeOptions
from muster.spec.model_shape import ModelShape
from muster.spec.pool import Node, NodeId, Pool
from muster.spec.workload import ServeWorkload

Ranges = dict[NodeId, tuple[int, int]]


def checked(
    pins: Sequence[Pin], shape: ModelShape, pool: Pool, workload: ServeWorkload, options: ServeOptions
) -> Ranges:
    """Raises `InvalidRequest` on a pin that no plan can honour."""
    known = {name: node for node in reversed(pool.nodes) for name in (node.name, node.id)}
    found: Ranges = {}
    for pin in pins:
        if pin.node not in known:
            raise refusals.unknown_pin(pin.node)
        if not 0 <= pin.first < pin.last <= shape.num_layers:
            raise refusals.pin_outside(pin.node, pin.first, pin.last, shape.num_layers)
        node = known[pin.node]
        if node.id in found:
            raise refusals.pinned_twice(pin.node)
        _check_memory(pin, node, shape, workload, options)
        found[node.id] = (pin.first, pin.last)
    return found


def _check_memory(pin: Pin, node: Node, shape: ModelShape, workload: ServeWorkload, options: ServeOptions) -> None:
    tokens = workload.prompt_tokens + workload.output_tokens
    degree = min(node.device_count, options.max_tensor_parallel or node.device_count)
    # As tensor parallel as it goes; several stages on the machine's devices need no less altogether.
    need = stage_bytes(shape, pin.first, pin.last, tokens, options.workspace, degree) * degree
    room = node.device.memory_bytes * degree * (node.device_count // degree)
    if need > room:
        raise refusals.pin_too_large(node, pin.first, pin.last, need, room)


def by_class(fleet: Fleet, ranges: Ranges) -> Mapping[int, tuple[int, int]]:
    return {
        of_class: ranges[node.id]
        for node, of_class in zip(fleet.nodes, fleet.class_of, strict=True)
        if node.id in ranges
    }


def together(fleet: Fleet, ranges: Ranges, layout: Layout) -> Layout:
    """The layout with pinned machines that fit into one replica in one team."""
    sets: list[tuple[int, list[int]]] = []
    pinned = [index for index, node in enumerate(fleet.nodes) if node.id in ranges]
    for node in sorted(pinned, key=lambda node: ranges[fleet.nodes[node].id]):
        first, last = ranges[fleet.nodes[node].id]
        index = next((i for i, (end, _) in enumerate(sets) if end <= first), None)
        if index is None:
            sets.append((last, [node]))
        else:
            sets[index] = (last, [*sets[index][1], node])
    for _, nodes in sets:
        touched = [members for members in layout if any(one.node in nodes for one in members)]
        others = [members for members in layout if members not in touched]
        layout = (*others, team(one for members in touched for one in members))
    return layout
