"""Why there is no plan, in one sentence each, with what would help."""

from math import ceil

from muster.cost.memory import workspace_bytes
from muster.errors import DoesNotFit, InvalidRequest, MusterError
from muster.plan.serve.job import Job
from muster.plan.words import bytes_in_words
from muster.spec.pool import Node

_MAX_MORE = 1000
"""Nobody adds more devices than this; larger ones are the remedy then."""


def nobody(name: str) -> DoesNotFit:
    return DoesNotFit(f"The pool has no machine to hold {name}; add one to the pool file, or let one join.")


def does_not_fit(job: Job) -> MusterError:
    """Either memory is missing, or what there is comes in pieces that no cut fits."""
    shape, nodes = job.shape, job.fleet.nodes
    cache = job.demand.whole_pages * job.demand.page_size * sum(job.shape.kv_bytes_per_token)
    scratch = _scratch(job)
    need = shape.weight_bytes(0, shape.num_layers) + cache
    usable = sum(node.device_count * max(0, node.device.memory_bytes - scratch) for node in nodes)
    largest = max(nodes, key=lambda node: node.device.memory_bytes)
    if usable < need:
        missing = need - usable
        return DoesNotFit(
            f"{shape.name} with the cache of one request needs {bytes_in_words(need)} and the pool's machines have "
            f"{bytes_in_words(usable)} beside their workspace, {bytes_in_words(missing)} too little; "
            f"{_remedy(missing, largest, scratch)}, or take a smaller model or dtype."
        )
    layer = max(shape.layer_bytes) + scratch
    return DoesNotFit(
        f"{shape.name} needs {bytes_in_words(need)} and the machines have {bytes_in_words(usable)}, but in "
        f"pieces too small to share its layers of up to {bytes_in_words(layer)} with workspace, or with links that are "
        f"down; add a device with at least {bytes_in_words(need - usable / 2)}, or lend more memory of each."
    )


def _remedy(missing: int, largest: Node, scratch: int) -> str:
    """More of the same, where that is any remedy."""
    each = largest.device.memory_bytes - scratch
    if each <= 0:
        lends = f"{largest.name} lends {bytes_in_words(largest.device.memory_bytes)} of each device"
        return f"{lends} and a step alone takes {bytes_in_words(scratch)}, so lend more or add larger machines"
    more = ceil(missing / each)
    if more > _MAX_MORE:
        return f"add machines that lend {bytes_in_words(missing)} together, with more on each than {largest.name}"
    return f"add {more} more {'device' if more == 1 else 'devices'} like those of {largest.name}"


def _scratch(job: Job) -> int:
    return workspace_bytes(job.shape, -1, job.options.workspace)


def deadline(deadline_s: float, best_s: float) -> InvalidRequest:
    return InvalidRequest(
        f"No request can be answered within {deadline_s:g} s on this pool; the best possible is {best_s:.3g} s, "
        "so allow at least that, or ask for shorter answers.",
        "deadline",
    )


def nothing_to_meet() -> InvalidRequest:
    return InvalidRequest(
        "The objective slo asks for requests in time, so say how many come a second and by when each must be answered "
        "(requests_per_s and deadline_s).",
        "objective",
    )


def budget(budget_per_hour: float, least: float) -> InvalidRequest:
    return InvalidRequest(
        f"Nothing that holds the model can be had for ${budget_per_hour:g} an hour; the cheapest found costs "
        f"${least:.2f}, so allow that much or add cheaper machines.",
        "budget",
    )


def rate(requests_per_s: float, bears: float) -> InvalidRequest:
    return InvalidRequest(
        f"{requests_per_s:g} requests a second are more than any plan for this pool can answer; the best found bears "
        f"{bears:.3g} a second, so ask for fewer or add machines.",
        "rate",
    )


def unknown_pin(node: str) -> InvalidRequest:
    return InvalidRequest(
        f"A pin names {node!r}, which is no machine of the pool; use a name from the pool file.", "pin"
    )


def pin_outside(node: str, first: int, last: int, layers: int) -> InvalidRequest:
    return InvalidRequest(
        f"The pin {node}={first}-{last} is no range of the model's {layers} layers; "
        f"give first-last with 0 <= first < last <= {layers} (last is not included).",
        "pin",
    )


def pinned_twice(node: str) -> InvalidRequest:
    return InvalidRequest(f"{node} is pinned twice; a machine takes one range of layers, so join the two pins.", "pin")


def pin_too_large(node: Node, first: int, last: int, need: int, room: int) -> InvalidRequest:
    return InvalidRequest(
        f"Layers {first} to {last} need {bytes_in_words(need)} with the cache of one request and {node.name} has "
        f"{bytes_in_words(room)}, {bytes_in_words(need - room)} too little; pin fewer layers to it.",
        "pin",
    )


def pins_impossible() -> InvalidRequest:
    return InvalidRequest(
        "The model fits on the pool, but not with these pins; pin fewer layers, or leave a pin out.", "pin"
    )
