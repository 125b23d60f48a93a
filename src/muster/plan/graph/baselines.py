"""What a scheduler that looks at no link does: equal numbers of operators, or equal compute, in the pool's order."""

import numpy as np

from muster.plan.graph.communities import communities
from muster.plan.graph.placement import GraphPlacement, GraphProblem
from muster.plan.train.dtfm.problem import Floats


def equal_count(problem: GraphProblem, seed: int = 0) -> GraphPlacement:
    """Contiguous pieces with equally many operators; memory is not looked at."""
    return _divided(problem, np.ones(len(problem.flops)), np.ones(problem.count), seed)


def equal_compute(problem: GraphProblem, seed: int = 0) -> GraphPlacement:
    """Contiguous pieces whose compute is in proportion to the machine's speed, as near as operators allow."""
    return _divided(problem, problem.flops, problem.speed, seed)


def _divided(problem: GraphProblem, weight: Floats, share: Floats, seed: int) -> GraphPlacement:
    sequence = np.array(problem.graph.order)
    middle = np.cumsum(weight[sequence]) - weight[sequence] / 2
    ends = np.cumsum(share) / share.sum() * weight.sum()
    machine = np.minimum(np.searchsorted(ends, middle), problem.count - 1)
    pieces = [(index, sequence[machine == index].tolist()) for index in range(problem.count)]
    return problem.priced(pieces, communities(problem.bandwidth, seed))
