"""A placement as the step that machines would carry out: pieces with seconds, flows with bytes, for the simulator.

A value is sent once to each machine that reads it, whatever number of its operators do. Where links shrink what they
carry, `ratios` says by how much, as AdaTopK or a codec for all would have it.
"""

from collections.abc import Mapping

from muster.plan.graph.placement import GraphPlacement, GraphProblem
from muster.sim.graph import GraphRun, PieceFlow, PieceWork, simulate_graph

FORWARD = 1 / 3
"""Of an operator's FLOPs in training."""
Link = tuple[int, int]
"""Machines, by index: from, to."""


def sent_bytes(problem: GraphProblem, placement: GraphPlacement) -> dict[Link, int]:
    """Of one microbatch between two machines, there and back together."""
    machine = {operator: where for where, piece in placement.pieces for operator in piece}
    values: dict[tuple[int, int, int], int] = {}
    for source, target, nbytes in problem.edges.tolist():
        if machine[source] != machine[target]:
            key = machine[source], machine[target], source
            values[key] = max(values.get(key, 0), nbytes)
    found: dict[Link, int] = {}
    for (here, there, _), nbytes in values.items():
        found[here, there] = found.get((here, there), 0) + nbytes
    return found


def transfer_seconds(problem: GraphProblem, placement: GraphPlacement) -> dict[Link, float]:
    """Of one microbatch's values one way, raw, on the slower direction of each link that is used."""
    return {
        (here, there): nbytes / 2 / min(problem.bandwidth[here, there], problem.bandwidth[there, here])
        for (here, there), nbytes in sent_bytes(problem, placement).items()
    }


def piece_seconds(problem: GraphProblem, placement: GraphPlacement) -> list[float]:
    """Computing of one microbatch, forward and back, of each piece."""
    return [float(problem.flops[list(piece)].sum() / problem.speed[where]) for where, piece in placement.pieces]


def executed(
    problem: GraphProblem, placement: GraphPlacement, ratios: Mapping[Link, float] | None = None, timeline: bool = False
) -> GraphRun:
    """One step of `problem.microbatches`. `ratios`: what each link's bytes are divided by."""
    ratios = ratios or {}
    place = {where: index for index, (where, _) in enumerate(placement.pieces)}
    pieces = [
        PieceWork(problem.pool.nodes[where].id, seconds * FORWARD, seconds * (1 - FORWARD))
        for (where, _), seconds in zip(placement.pieces, piece_seconds(problem, placement), strict=True)
    ]
    flows = [
        PieceFlow(
            place[here],
            place[there],
            nbytes / 2 / ratios.get((here, there), 1.0),
            nbytes / 2 / ratios.get((here, there), 1.0),
            float(problem.latency_s[here, there]),
            float(problem.bandwidth[here, there]),
            float(problem.bandwidth[there, here]),
        )
        for (here, there), nbytes in sent_bytes(problem, placement).items()
    ]
    return simulate_graph(pieces, flows, problem.microbatches, timeline)
