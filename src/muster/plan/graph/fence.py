"""OP-Fence: contiguous pieces of an operator graph on communities of machines, few edges over slow links.

A piece is contiguous in a topological order, so every cut is convex: data flow forward only. For an order of the
machines the pieces are found by dynamic programming over (machine, operators so far): first the least slowest of all
computations and transfers, then, within a little more than that, the least seconds on the wire altogether. Orders keep
communities together, so that a path leaves each community once. An edge over several pieces counts at every boundary
that it crosses, which is more than sending it directly costs; what is printed is counted directly.

FusionLLM (arXiv 2410.12707) gives the idea in its abstract; the algorithm here is this project's.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from muster.errors import DoesNotFit
from muster.plan.graph.communities import communities, orders
from muster.plan.graph.placement import GraphPlacement, GraphProblem
from muster.plan.train.dtfm.problem import Floats, Ints

SLACKS = (0.0, 0.05, 0.25, 1.0)
"""How much slower than the least the slowest may be where that saves time on the wire."""


def op_fence(problem: GraphProblem, seed: int = 0, everyone: bool = False) -> GraphPlacement:
    """The best placement of all orders tried. Raises `DoesNotFit` if no order holds all operators.

    `everyone`: every machine gets a piece, also one that slows the step down.
    """
    labels = communities(problem.bandwidth, seed)
    one = problem.latency_s + 1e6 / np.maximum(problem.bandwidth, 1e-9)
    found = [
        problem.priced(pieces, labels)
        for order in _tried(orders(labels, one, problem.speed), labels, everyone)
        for sequence in dict.fromkeys((problem.graph.order, problem.graph.order_by_level))
        for pieces in fenced(problem, order, sequence, everyone)
    ]
    if not found:
        raise DoesNotFit(
            f"The operators keep {problem.kept.sum() / 2**30:.1f} GiB, which do not fit into the machines' "
            f"{problem.caps.sum() / 2**30:.1f} GiB in contiguous pieces; add machines or split large operators."
        )
    return min(found, key=lambda placement: (placement.step_s, placement.slow_bytes))


def _tried(every: Iterable[Ints], labels: Ints, everyone: bool) -> list[Ints]:
    """Also without the communities at the end, unless everyone takes part: a machine that hurts is left out."""
    if everyone:
        return list(every)
    found: dict[bytes, Ints] = {}
    for order in every:
        ends = [0, *(np.flatnonzero(np.diff(labels[order])) + 1).tolist(), len(order)]
        for end in {*ends[1:], 1}:
            found.setdefault(order[:end].tobytes(), order[:end])
    return list(found.values())


Pieces = list[tuple[int, tuple[int, ...]]]


def fenced(problem: GraphProblem, order: Ints, sequence: Sequence[int], everyone: bool = False) -> list[Pieces]:
    """Pieces of `sequence` on the machines in this order, for each of `SLACKS`; machines at the end may stay empty,
    unless everyone takes part."""
    computing, wire = _computing(problem, order, sequence), _wire(problem, order, sequence)
    least = _least_slowest(computing, wire, everyone)
    if not np.isfinite(least):
        return []
    found = [_least_wire(computing, wire, least * (1 + slack) * (1 + 1e-9), everyone) for slack in SLACKS]
    return [
        [(int(machine), tuple(sequence[a:b])) for machine, a, b in zip(order, cuts[:-1], cuts[1:], strict=False)]
        for cuts in dict.fromkeys(found)
    ]


def _computing(problem: GraphProblem, order: Ints, sequence: Sequence[int]) -> Floats:
    """[machine, first, last]: seconds of these operators; infinite if they do not fit or there are none."""
    flops = np.concatenate([[0.0], np.cumsum(problem.flops[list(sequence)])])
    kept = np.concatenate([[0.0], np.cumsum(problem.kept[list(sequence)])])
    amount, need = flops[None, :] - flops[:, None], kept[None, :] - kept[:, None]
    some = np.arange(len(flops))[None, :] > np.arange(len(flops))[:, None]
    fits = some & (need[None] <= problem.caps[order][:, None, None])
    found: Floats = np.where(fits, amount[None] / problem.speed[order][:, None, None], np.inf)
    return found


def _wire(problem: GraphProblem, order: Ints, sequence: Sequence[int]) -> Floats:
    """[machine, cut]: seconds to receive what crosses the cut from the machine before."""
    place = np.empty(len(sequence), dtype=np.int64)
    place[list(sequence)] = np.arange(len(sequence))
    crossing = np.zeros(len(sequence) + 1)
    for source, target, nbytes in problem.edges:
        crossing[place[source] + 1 : place[target] + 1] += nbytes
    before = np.concatenate([order[:1], order[:-1]])
    with np.errstate(divide="ignore"):
        seconds = problem.latency_s[before, order][:, None] + crossing[None] / problem.bandwidth[before, order][:, None]
    found: Floats = np.where(crossing[None] > 0, seconds, 0.0)
    return found


def _least_slowest(computing: Floats, wire: Floats, everyone: bool) -> float:
    """With any number of the machines from the first on, or with all."""
    reached = computing[0, 0].copy()
    best = float(reached[-1])
    for machine in range(1, len(computing)):
        through = np.maximum(np.maximum(reached, wire[machine])[:, None], computing[machine])
        reached = through.min(axis=0)
        best = float(reached[-1]) if everyone else min(best, float(reached[-1]))
    return best


def _least_wire(computing: Floats, wire: Floats, limit_s: float, everyone: bool) -> tuple[int, ...]:
    """Cuts with nothing slower than the limit and the least compute and wire altogether."""
    able = np.where(computing <= limit_s, computing, np.inf)
    costs = [able[0, 0].copy()]
    came: list[Ints] = []
    for machine in range(1, len(computing)):
        arriving = np.where(wire[machine] <= limit_s, costs[-1] + wire[machine], np.inf)
        through = arriving[:, None] + able[machine]
        came.append(through.argmin(axis=0))
        costs.append(through.min(axis=0))
    last = len(costs) - 1 if everyone else int(np.argmin([cost[-1] for cost in costs]))
    cuts = [computing.shape[1] - 1]
    for machine in range(last, 0, -1):
        cuts.append(int(came[machine - 1][cuts[-1]]))
    return (0, *reversed(cuts)) if last else (0, cuts[0])
