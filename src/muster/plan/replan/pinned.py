"""Machines whose layers the operator has fixed: who can have theirs now, and plans around those. Pure.

A pin is kept whenever the pool can serve with it. Otherwise others hold its layers until it can be kept again.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from muster.cost.island import slowest_way
from muster.cost.memory import stage_bytes
from muster.errors import PoolUnavailable
from muster.plan.quick.planner import Planner, as_plan
from muster.plan.quick.repair import repair
from muster.plan.quick.tables import PlanOptions
from muster.plan.serve.options import Pin
from muster.plan.words import bytes_in_words
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, Plan, ServeSettings, Stage
from muster.spec.pool import Node, NodeId, Pool

PINNED = "Pinned machines have their layers, others the rest"
LEAST_OF_ID = 6
"""So many characters of an id name a machine."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """A pin, held against a pool."""

    pin: Pin
    stage: Stage | None
    """What its machine can hold now; None: nobody can."""
    trouble: str = ""
    """Why nobody can, in one sentence."""
    is_here: bool = True


def pinned(pins: Sequence[Pin], shape: ModelShape, pool: Pool, options: PlanOptions) -> tuple[Pinned, ...]:
    """Every pin, held against the machines that are here now."""
    found: list[Pinned] = []
    for pin in pins:
        taken = {node for other in found if other.stage is not None for node in other.stage.members}
        one = _pinned(pin, shape, pool, options, taken)
        if one.stage is not None and taken.intersection(one.stage.members):
            one = Pinned(pin, None, f"{pin.node} is pinned twice, by its name and by its id; leave one out.")
        found.append(one)
    return tuple(found)


def is_meant(pin: Pin, node: Node) -> bool:
    """Whether a pin may mean this machine, by its name, by its island or by the first digits of its id."""
    return pin.node in (node.name, node.island or node.name) or (
        len(pin.node) >= LEAST_OF_ID and node.id.startswith(pin.node)
    )


def without(pins: Sequence[Pin], pool: Pool, held: Collection[Stage] = ()) -> Pool:
    """The machines that none of these pins means; of an island so many as they ask for.

    `held` are stages at work, whose machines are not in the pool: an island that has its layers needs no others.
    """
    kept: set[NodeId] = set()
    for pin in pins:
        island = _island(pin, pool)
        if not island:
            kept |= {node.id for node in pool.nodes if is_meant(pin, node)}
        elif not any((one.first, one.last, one.degree) == (pin.first, pin.last, len(pin.devices)) for one in held):
            kept |= {node.id for node in _meant(pin, island, kept)}
    return replace(pool, nodes=tuple(node for node in pool.nodes if node.id not in kept))


def _island(pin: Pin, pool: Pool) -> list[Node]:
    """Whose machines a pin means by its numbers of devices, in their order; empty where it means a machine."""
    if len(pin.devices) == 1 and any(node.name == pin.node for node in pool.nodes):
        return []
    return sorted((node for node in pool.nodes if node.island == pin.node), key=lambda node: (node.name, node.id))


def _meant(pin: Pin, island: Sequence[Node], taken: Collection[NodeId]) -> list[Node]:
    """Of an island; for one that is gone, another."""
    meant = [island[index] for index in pin.devices if index < len(island)]
    spare = [node for node in reversed(island) if node not in meant]
    return [node for node in [*meant, *spare] if node.id not in taken][: len(pin.devices)]


def _pinned(pin: Pin, shape: ModelShape, pool: Pool, options: PlanOptions, taken: Collection[NodeId]) -> Pinned:
    found = [node for node in pool.nodes if node.name == pin.node]
    if island := _island(pin, pool):
        return _on_island(pin, shape, pool, island, options, taken)
    if len(pin.devices) > 1:
        return Pinned(
            pin,
            None,
            f"{_layers(pin).capitalize()} are planned for {len(pin.devices)} devices of {pin.node}, and no machine of "
            f"an island of this name is here; start one for each device with `muster join --island {pin.node}`.",
            is_here=False,
        )
    if not found and len(pin.node) >= LEAST_OF_ID:
        found = [node for node in pool.nodes if node.id.startswith(pin.node)]
    if not found:
        return Pinned(pin, None, f"{pin.node} is not here; others hold {_layers(pin)} until it is.", is_here=False)
    if len(found) > 1:
        return Pinned(pin, None, f"{len(found)} machines are called {pin.node}; pin one of them by its id.")
    return _held_against(pin, found, shape, options)


def _on_island(
    pin: Pin,
    shape: ModelShape,
    pool: Pool,
    island: Sequence[Node],
    options: PlanOptions,
    taken: Collection[NodeId],
) -> Pinned:
    """The machines that the numbers of devices mean."""
    chosen = _meant(pin, island, taken)
    if len(chosen) < len(pin.devices):
        return Pinned(
            pin,
            None,
            f"Of the {len(pin.devices)} machines of island {pin.node} that are to share {_layers(pin)}, {len(chosen)} "
            "are here and free; start the others.",
            is_here=False,
        )
    for one, other in combinations(chosen, 2):
        if slowest_way(pool, (one.id, other.id)).bandwidth_bytes_per_s <= 0:
            return Pinned(
                pin,
                None,
                f"{one.name} and {other.name} of island {pin.node} do not reach each other; let them be on one "
                "network, without a firewall between them.",
            )
    return _held_against(pin, chosen, shape, options)


def _held_against(pin: Pin, nodes: Sequence[Node], shape: ModelShape, options: PlanOptions) -> Pinned:
    """The slowest of them speaks for all: they wait for it anyway, and so its speed is what is planned with."""
    tokens = options.min_pages(shape) * options.page_size
    need = stage_bytes(shape, pin.first, pin.last, tokens, options.workspace, len(nodes))
    least = min(nodes, key=lambda node: node.device.memory_bytes)
    if need > least.device.memory_bytes:
        return Pinned(
            pin,
            None,
            f"{_layers(pin).capitalize()} need {bytes_in_words(need)} and {least.name} lends "
            f"{bytes_in_words(least.device.memory_bytes)}; pin fewer layers to it, or lend more with --memory.",
        )
    pace = {node.id: options.step_seconds(shape, pin.first, pin.last, node.device) for node in nodes}
    first, *others = sorted(nodes, key=lambda node: -pace[node.id])
    return Pinned(pin, Stage(first.id, pin.first, pin.last, others=tuple(node.id for node in others)))


def slowest_members(pool: Pool, stages: Iterable[Stage]) -> str:
    """Who paces an island of unequal machines, in words; empty where none does."""
    nodes = {node.id: node for node in pool.nodes}
    unequal = [
        nodes[stage.node].name
        for stage in stages
        if len({tuple(sorted(nodes[node].device.flops_per_s.items())) for node in stage.members}) > 1
    ]
    return f" ({', '.join(unequal)} paces its island)" if unequal else ""


def _layers(pin: Pin) -> str:
    return f"layer {pin.first}" if pin.last - pin.first == 1 else f"layers {pin.first} to {pin.last - 1}"


def honours(pipeline: Pipeline, fixed: Collection[Stage]) -> bool:
    """Whether these stages are in it as they are."""
    return set(fixed) <= set(pipeline.stages)


def around(planner: Planner) -> Planner:
    """`planner`, for plans that hold the stages of `options.fixed`; it raises `PoolUnavailable` where none can."""

    def plan(shape: ModelShape, pool: Pool, keep: Pipeline | None, options: PlanOptions) -> Plan:
        fixed = options.fixed
        if not fixed:
            return planner(shape, pool, keep, options)
        others = [stage for stage in keep.stages if _is_beside(stage, fixed)] if keep is not None else []
        for stages in ([*fixed, *others], fixed):
            in_order = tuple(sorted(stages, key=lambda stage: stage.first))
            found = repair(shape, pool, Pipeline(in_order, ServeSettings(0, options.page_size, 1)), options)
            if found is not None:
                return as_plan(shape, pool, *found, options, PINNED + slowest_members(pool, found[0]))
        raise PoolUnavailable(
            "The machines that are not pinned cannot hold the other layers; let more join, or pin fewer layers."
        )

    return plan


def _is_beside(stage: Stage, fixed: Collection[Stage]) -> bool:
    return all(
        not set(stage.members) & set(other.members) and (stage.last <= other.first or other.last <= stage.first)
        for other in fixed
    )
