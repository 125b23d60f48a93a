"""DT-FM's objective once more, written from the paper's equations with loops and permutations and nothing of ours.

Slow on purpose: matchings by trying all, or for larger groups by allowing one value more at a time and asking scipy for
a perfect matching; paths by trying every order, or by Held-Karp over frozen sets.
"""

from functools import cache
from itertools import combinations, pairwise, permutations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching


def seconds(problem, nbytes, d, e):
    alpha = (problem.latency_s[d][e] + problem.latency_s[e][d]) / 2
    beta = (problem.bandwidth_bytes_per_s[d][e] + problem.bandwidth_bytes_per_s[e][d]) / 2
    return 2 * (alpha + nbytes / beta)


def data_parallel(problem, group):
    share = problem.job.gradient_bytes / problem.job.replicas
    return max(sum(seconds(problem, share, d, e) for e in group if e != d) for d in group)


def edge(problem, one, two):
    cost = [[seconds(problem, problem.job.activation_bytes, d, e) for e in two] for d in one]
    if len(one) <= 5:
        return min(max(cost[i][j] for i, j in enumerate(p)) for p in permutations(range(len(one))))
    for value in sorted({value for row in cost for value in row}):
        within = csr_matrix(np.array(cost) <= value)
        if (maximum_bipartite_matching(within) >= 0).all():
            return value
    raise AssertionError


def path(weights):
    count = len(weights)
    if count <= 6:
        return min(sum(weights[i][j] for i, j in pairwise(p)) for p in permutations(range(count)))

    @cache
    def shortest(end, inside):
        rest = inside - {end}
        return min((shortest(last, rest) + weights[last][end] for last in rest), default=0.0)

    return min(shortest(end, frozenset(range(count))) for end in range(count))


def communication(problem, partition):
    """(DataP, PipelineP) of a partition."""
    weights = [[0.0 if one is two else edge(problem, one, two) for two in partition] for one in partition]
    return max(data_parallel(problem, group) for group in partition), path(weights)


def along(problem, grid):
    """(DataP, PipelineP) as the grid of a placement runs it: rows are pipelines, columns stages."""
    stages = list(zip(*grid, strict=True))
    volume = problem.job.activation_bytes
    hops = [max(seconds(problem, volume, row[j], row[j + 1]) for row in grid) for j in range(len(stages) - 1)]
    return max(data_parallel(problem, group) for group in stages), sum(hops)


def partitions(machines, size):
    """Every way to split `machines` into groups of `size`."""
    if not machines:
        yield ()
        return
    first, *rest = machines
    for others in combinations(rest, size - 1):
        for tail in partitions([m for m in rest if m not in others], size):
            yield ((first, *others), *tail)
