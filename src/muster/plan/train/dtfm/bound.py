"""A lower bound of DT-FM's objective, so that the gap of a plan to the optimum is known.

Take a threshold v on the pipeline cost of a link. Between two neighbouring stages whose edge (eq. 3) is within v, every
machine's partner lies in the same connected component of the links within v. So a path with c edges above v consists of
c + 1 runs of stages, and all stages of a run have the same number m_C of machines in each component C:

    sum over runs of width * m_C = size of C         sum over C of m_C = replicas

Each stage of a run has a DataP (eq. 2) of at least what the cheapest m_C machines of each component would give it. The
least slowest DataP of all solutions with c edges is `Table.least[c]`; read backwards, a plan with DataP T has at least
`cuts(v, T)` edges above v, and its path costs at least

    (stages - 1) * fastest link + integral over v of cuts(v, T).

The bound is the least T + path(T). Nothing is assumed about which v, T or runs the optimum has, so it always holds. It
is exact for the published fleets 1 to 4. Work that would take too long is skipped, which weakens the bound only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from muster.plan.train.dtfm.problem import Floats, TrainProblem
from muster.plan.train.dtfm.runs import Structure, components


@dataclass(frozen=True)
class PathTable:
    """The least DataP of a path with at most 0, 1, 2, ... edges above `above_s`."""

    above_s: float
    least: tuple[float, ...]

    def cuts(self, data_parallel_s: float) -> int:
        """How many edges above the threshold a plan with this DataP has at least."""
        reached = (cuts for cuts, least in enumerate(self.least) if least <= data_parallel_s * (1 + 1e-9))
        return next(reached, len(self.least))


def lower_bound(problem: TrainProblem) -> float:
    """Seconds below which no placement can get."""
    floor_s = least_data_parallel(problem)
    if problem.stages == 1:
        return floor_s
    values = np.unique(problem.pipeline_s[~np.eye(problem.count, dtype=bool)])
    tables = list(_tables(problem, values, floor_s))
    least = {data_s for table in tables for data_s in table.least if data_s < np.inf}
    return min(data_s + _path_s(problem, values, tables, data_s) for data_s in {floor_s, *least})


def least_data_parallel(problem: TrainProblem) -> float:
    """No machine can have cheaper mates than those nearest to it; the worst machine is in some group."""
    seconds = problem.data_parallel_s + np.diag(np.full(problem.count, np.inf))
    return float(np.sort(seconds, axis=1)[:, : problem.replicas - 1].sum(axis=1).max())


def _path_s(problem: TrainProblem, values: Floats, tables: list[PathTable], data_s: float) -> float:
    """An edge above a value is also above every lower one."""
    cuts = np.zeros(len(values))
    for table in tables:
        upto = int(np.searchsorted(values, table.above_s)) + 1
        cuts[:upto] = np.maximum(cuts[:upto], table.cuts(data_s))
    steps = sum(count * (after - before) for count, (before, after) in zip(cuts, pairwise(values), strict=False))
    return float((problem.stages - 1) * values[0] + steps)


def _tables(problem: TrainProblem, values: Floats, floor_s: float) -> Iterator[PathTable]:
    """One for each way in which the links fall into components, at the highest value that leaves them so."""
    labels = components(problem.pipeline_s <= values[0])
    for value, following in pairwise(values):
        later = components(problem.pipeline_s <= following)
        if (later != labels).any():
            yield PathTable(float(value), Structure(problem, labels, floor_s).least())
        labels = later
        if not labels.any():
            return
