"""Layers that stay on a machine, as far as they can be checked before any machine is here. Knows no command line.

Layers are counted from 0, and both ends are meant.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from muster.broker.pipelines.job import PlannedPipeline
from muster.errors import InvalidRequest, Unsupported
from muster.plan.runnable import RUNS, beyond
from muster.plan.serve.options import Pin
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Plan
from muster.spec.plan_file import PlanFile


@dataclass(frozen=True, slots=True)
class SavedPlan:
    """A plan that `muster plan --lock` wrote."""

    name: str
    """Of the file, for errors."""
    file: PlanFile


def check_layers(pin: Pin, shape: ModelShape) -> None:
    """Raises `InvalidRequest` on layers that the model does not have."""
    if pin.last > shape.num_layers:
        most = shape.num_layers - 1
        raise InvalidRequest(
            f"--pin {pin.node}={pin.first}-{pin.last - 1} goes beyond the model, whose layers are 0 to {most}; "
            "correct it.",
            "pin",
        )


def check_apart(pins: Sequence[Pin], shape: ModelShape) -> None:
    """For a runtime of one pipeline. Raises `InvalidRequest` unless each machine and each layer is pinned once."""
    for pin in pins:
        check_layers(pin, shape)
    for one, other in combinations(pins, 2):
        if one.node == other.node and set(one.devices) & set(other.devices):
            raise InvalidRequest(f"--pin names {one.node} twice; a machine takes one range, so join the two.", "pin")
        both = range(max(one.first, other.first), min(one.last, other.last))
        if both:
            raise over_each_other(both[0], one.node, other.node)


def over_each_other(layer: int, one: str, other: str) -> InvalidRequest:
    return InvalidRequest(f"--pin puts layer {layer} on {one} and on {other}; give every layer to one machine.", "pin")


def _check_degrees(name: str, plan: Plan, shape: ModelShape) -> None:
    """Raises `Unsupported` where a stage is split as the model cannot be."""
    if shape.degrees is None:
        return
    for stage in (stage for pipeline in plan.pipelines for stage in pipeline.stages):
        if stage.degree > 1 and stage.degree not in shape.degrees:
            would = ", ".join(map(str, shape.degrees))
            raise Unsupported(
                f"{name} splits layers {stage.first} to {stage.last - 1} over {stage.degree} devices and {shape.name} "
                f"cannot be cut so; {f'degrees {would} would do' if would else 'its stages stay whole'}, so plan anew.",
                "plan",
            )


def pipelines_of_plan(plan: SavedPlan, shape: ModelShape) -> tuple[PlannedPipeline, ...]:
    """Each with its stages, by the machines' names, and the settings that it serves with.

    Raises `InvalidRequest` on a plan for training or for another model; `Unsupported` on what no pool runs yet.
    """
    name, held = plan.name, plan.file
    if held.plan.trains:
        raise InvalidRequest(f"{name} is a plan for training; make one for serving with `muster plan --lock`.", "plan")
    if held.shape.num_layers != shape.num_layers or held.shape.layer_bytes != shape.layer_bytes:
        raise InvalidRequest(
            f"{name} was made for {held.shape.name} in {held.shape.dtype}, not for {shape.name} in {shape.dtype}; "
            "plan anew for this model, or serve that one.",
            "plan",
        )
    if what := beyond(held.plan):
        raise Unsupported(
            f"{name} plans {' and '.join(what)}, and {RUNS}; plan for serving instead.",
            "plan",
        )
    _check_degrees(name, held.plan, shape)
    names = {node.id: node.name for node in held.pool.nodes}
    if len(set(names.values())) < len(names):
        raise InvalidRequest(f"{name} has several machines of one name; give each its own and plan anew.", "plan")
    return tuple(
        PlannedPipeline(
            tuple(Pin(names[stage.node], stage.first, stage.last, stage.devices) for stage in pipeline.stages),
            pipeline.serve,
        )
        for pipeline in held.plan.pipelines
    )
