"""Machines with fast links between them, found by Louvain's method, and an order in which pipelines visit them.

Blondel et al., "Fast unfolding of communities in large networks" (2008), with bandwidth as the weight of a link.
"""

from collections.abc import Iterator
from itertools import permutations

import networkx
import numpy as np

from muster.plan.train.dtfm.problem import Floats, Ints

MAX_PERMUTED = 5
"""Communities, or machines, of which every order is tried."""


def communities(bandwidth: Floats, seed: int) -> Ints:
    """A label per machine; those that link better with each other than the pool on the mean are together."""
    count = len(bandwidth)
    graph = networkx.Graph()
    graph.add_nodes_from(range(count))
    both_ways = np.minimum(bandwidth, bandwidth.T)
    for i in range(count):
        for j in range(i):
            if both_ways[i, j] > 0:
                graph.add_edge(i, j, weight=float(both_ways[i, j]))
    labels = np.zeros(count, dtype=np.int64)
    for label, members in enumerate(networkx.community.louvain_communities(graph, weight="weight", seed=seed)):
        labels[list(members)] = label
    return labels


def orders(labels: Ints, near: Floats, speed: Floats) -> Iterator[Ints]:
    """Machines in orders that keep communities together. `near[i, j]`: seconds from i to j.

    Few machines: every order. Few communities: every order of them, fast machines first in each. Else from each
    community to the nearest one that was not visited.
    """
    count = len(labels)
    if count <= MAX_PERMUTED:
        yield from (np.array(order) for order in permutations(range(count)))
        return
    members = [np.flatnonzero(labels == label) for label in range(int(labels.max()) + 1)]
    members = [some[np.argsort(-speed[some], kind="stable")] for some in members]
    if len(members) <= MAX_PERMUTED:
        visits: Iterator[tuple[int, ...]] = permutations(range(len(members)))
    else:
        visits = (_nearest_first(members, near, start) for start in range(len(members)))
    for visit in visits:
        yield np.concatenate([members[label] for label in visit])


def _nearest_first(members: list[Ints], near: Floats, start: int) -> tuple[int, ...]:
    between = np.array([[float(near[np.ix_(a, b)].min()) for b in members] for a in members])
    path = [start]
    while len(path) < len(members):
        left = [label for label in range(len(members)) if label not in path]
        path.append(min(left, key=lambda label: (between[path[-1], label], label)))
    return tuple(path)
