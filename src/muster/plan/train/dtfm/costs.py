"""Costs of groups and of pairs of groups, remembered. Of machines only their kinds matter here.

Machines that can be exchanged without changing anything are of one kind (`TrainProblem.kinds`), so a group is a
*mix*: how many of each kind. Fleets of a few regions have far fewer mixes than groups, and a search meets the same ones
again and again. Where all machines differ, a mix is just a set.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from muster.plan.train.dtfm.matching import Matching, Mix, Reach
from muster.plan.train.dtfm.objective import shortest_path
from muster.plan.train.dtfm.problem import Floats, Group, Partition, TrainProblem

MAX_EDGES = 400_000
"""Remembered pairs; more are forgotten at once, so that memory stays below some 100 MB."""


@dataclass(frozen=True, eq=False, slots=True)
class Column:
    """The machines of one stage, by kind. One object per mix, so that `is` compares."""

    index: int
    key: int
    """Sum of `code[kind]`; unique by construction."""
    mix: Mix
    data_s: float
    """DataP of the group (eq. 2)."""


class Edge(NamedTuple):
    """Between the groups of two stages."""

    slowest_s: float
    """Eq. 3: the slowest pair of the best perfect matching."""
    mean_s: float
    """The mean pair of that matching; it tells plateaus apart."""


class Costs:
    """Eqs. 2 and 3 over mixes. Pure apart from its memory."""

    def __init__(self, problem: TrainProblem) -> None:
        self.problem = problem
        self.kinds: list[int] = problem.kinds.tolist()
        self.code = [(problem.replicas + 1) ** kind for kind in range(max(self.kinds) + 1)]
        self.data_s: list[list[float]] = self._between(problem.data_parallel_s).tolist()
        pipeline_s = self._between(problem.pipeline_s)
        self.pipeline_s: list[list[float]] = pipeline_s.tolist()
        self.values: list[float] = np.unique(pipeline_s).tolist()
        self.reach = Reach(np.searchsorted(self.values, pipeline_s).tolist())
        self._columns: dict[int, Column] = {}
        self._edges: dict[tuple[int, int], Edge] = {}

    def _between(self, seconds: Floats) -> Floats:
        """Machines x machines -> kinds x kinds; the diagonal is what two different machines of the kind have."""
        kinds = self.problem.kinds
        firsts = np.unique(kinds, return_index=True)[1]
        between = seconds[np.ix_(firsts, firsts)].copy()
        for kind in range(len(firsts)):
            members = np.flatnonzero(kinds == kind)
            if len(members) > 1:
                between[kind, kind] = seconds[members[0], members[1]]
        return between

    def column(self, mix: Mix) -> Column:
        return self._intern(sum(self.code[kind] * count for kind, count in mix.items()), mix)

    def of_group(self, group: Group) -> Column:
        mix: Mix = {}
        for machine in group:
            kind = self.kinds[machine]
            mix[kind] = mix.get(kind, 0) + 1
        return self.column(mix)

    def exchange(self, column: Column, gone: int, come: int, count: int) -> Column:
        """`column` with `count` of kind `gone` replaced by kind `come`."""
        key = column.key + count * (self.code[come] - self.code[gone])
        known = self._columns.get(key)
        if known is not None:
            return known
        mix = dict(column.mix)
        mix[come] = mix.get(come, 0) + count
        mix[gone] -= count
        if not mix[gone]:
            del mix[gone]
        return self._intern(key, mix)

    def _intern(self, key: int, mix: Mix) -> Column:
        known = self._columns.get(key)
        if known is None:
            known = self._columns[key] = Column(len(self._columns), key, mix, self._data_parallel(mix))
        return known

    def _data_parallel(self, mix: Mix) -> float:
        rows = self.data_s
        return max(sum(rows[kind][other] * count for other, count in mix.items()) - rows[kind][kind] for kind in mix)

    def edge(self, one: Column, two: Column) -> Edge:
        """w between two groups (eq. 3)."""
        pair = (one.index, two.index) if one.index < two.index else (two.index, one.index)
        known = self._edges.get(pair)
        if known is None:
            if len(self._edges) >= MAX_EDGES:
                self._edges.clear()
            known = self._edges[pair] = self._match(one.mix, two.mix)
        return known

    def least_edge(self, one: Column, two: Column) -> Edge:
        """At most w, from everybody's best partner; or w itself where it is known."""
        pair = (one.index, two.index) if one.index < two.index else (two.index, one.index)
        known = self._edges.get(pair)
        if known is not None:
            return known
        rows = [[row[b] for b in two.mix] for row in [self.pipeline_s[a] for a in one.mix]]
        best = [min(row) for row in rows]
        slowest_s = max(max(best), max([min(column) for column in zip(*rows, strict=True)]))
        total_s = sum([count * seconds for count, seconds in zip(one.mix.values(), best, strict=True)])
        return Edge(slowest_s, total_s / self.problem.replicas)

    def _match(self, one: Mix, two: Mix) -> Edge:
        matching = Matching(self.reach, one, two)
        seconds, total_s = self.pipeline_s, 0.0
        for a, partners in matching.pairs.items():
            for b, count in partners.items():
                total_s += count * seconds[a][b]
        return Edge(self.values[matching.threshold], total_s / self.problem.replicas)

    def total_s(self, partition: Partition) -> float:
        """COMM (eq. 1); the same as `evaluate`, faster where groups come back."""
        columns = [self.of_group(group) for group in partition]
        weights = np.zeros((len(columns), len(columns)))
        for i, one in enumerate(columns):
            for j, two in enumerate(columns[:i]):
                weights[i, j] = weights[j, i] = self.edge(one, two).slowest_s
        return max(column.data_s for column in columns) + shortest_path(weights)[0]
