"""OP-Fence against schedulers that look at no link, and against trying everything on tiny graphs."""

from itertools import combinations, permutations

import numpy as np
import pytest

from muster.errors import DoesNotFit, InvalidRequest
from muster.plan.graph.baselines import equal_compute, equal_count
from muster.plan.graph.communities import communities
from muster.plan.graph.fence import op_fence
from muster.plan.graph.placement import GraphProblem
from muster.spec.fleets import shipped_fleet
from muster.spec.operator_graph import DataEdge, Operator, OperatorGraph
from muster.spec.pool import LinkSpeed, Pool
from tests.plan.train.fleets import drawn_pool, machine

FAST, SLOW = LinkSpeed(1e-4, 1e10), LinkSpeed(0.03, 2e7)


def sites(sizes, seed=0):
    """Machines of `len(sizes)` sites, listed in random order."""
    rng = np.random.default_rng(seed)
    site = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    nodes = [machine(f"m{i}", float(rng.choice([1.0, 2.0]))) for i in range(len(site))]
    links = {
        (a.id, b.id): FAST if site[i] == site[j] else SLOW
        for i, a in enumerate(nodes)
        for j, b in enumerate(nodes)
        if i != j
    }
    return Pool(tuple(nodes), links), site


def drawn_graph(count, seed, extra=0.5):
    """A chain of operators of unequal size with some edges that skip, some of them heavy."""
    rng = np.random.default_rng(seed)
    operators = tuple(
        Operator(f"op{i}", float(rng.choice([1e11, 3e11, 1e12])), int(rng.choice([10**7, 10**8]))) for i in range(count)
    )
    pairs = [(i, i + 1) for i in range(count - 1)]
    pairs += [(i, j) for i in range(count) for j in range(i + 2, min(count, i + 5)) if rng.random() < extra / 3]
    edges = tuple(DataEdge(f"op{i}", f"op{j}", int(rng.choice([10**5, 10**6, 8 * 10**6]))) for i, j in pairs)
    return OperatorGraph(operators, edges)


def check(problem, placement):
    """Every operator once, every machine once, data flow forward only, memory suffices."""
    operators = [operator for _, piece in placement.pieces for operator in piece]
    assert sorted(operators) == list(range(len(problem.graph.operators)))
    machines = [where for where, _ in placement.pieces]
    assert len(machines) == len(set(machines))
    place = {operator: index for index, (_, piece) in enumerate(placement.pieces) for operator in piece}
    assert all(place[source] <= place[target] for source, target, _ in problem.edges.tolist())
    assert all(problem.fits(where, piece) for where, piece in placement.pieces)


@pytest.mark.parametrize("sizes", [(3, 3), (8, 5, 3), (2, 2, 2, 2)])
def test_sites_are_found_as_communities(sizes):
    pool, site = sites(sizes, 1)
    labels = communities(GraphProblem(drawn_graph(4, 0), pool).bandwidth, seed=0)
    for a, b in combinations(range(len(site)), 2):
        assert (labels[a] == labels[b]) == (site[a] == site[b])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("microbatches", [1, 16])
def test_fewer_bytes_cross_slow_links_and_the_pipeline_is_no_slower_than_with_either_baseline(seed, microbatches):
    pool, _ = sites([(3, 3), (4, 2, 3), (2, 2, 2, 2)][seed % 3], seed)
    problem = GraphProblem(drawn_graph(40, seed), pool, microbatches)
    ours = op_fence(problem)
    check(problem, ours)
    for theirs in (equal_count(problem), equal_compute(problem)):
        assert ours.slow_bytes <= theirs.slow_bytes
        assert ours.step_s <= theirs.step_s


def orders_of(graph):
    pairs = [(graph.index[edge.source], graph.index[edge.target]) for edge in graph.edges]
    for order in permutations(range(len(graph.operators))):
        place = {operator: index for index, operator in enumerate(order)}
        if all(place[a] < place[b] for a, b in pairs):
            yield order


def best_of_all(problem):
    """Every topological order, every cut, every choice and order of machines."""
    count, labels, best = len(problem.graph.operators), np.arange(problem.count), np.inf
    for sequence in orders_of(problem.graph):
        for pieces in range(1, problem.count + 1):
            for inner in combinations(range(1, count), pieces - 1):
                cuts = (0, *inner, count)
                for machines in permutations(range(problem.count), pieces):
                    parts = [(m, sequence[a:b]) for m, a, b in zip(machines, cuts, cuts[1:], strict=False)]
                    if all(problem.fits(*part) for part in parts):
                        best = min(best, problem.priced(parts, labels).step_s)
    return best


@pytest.mark.parametrize("seed", range(8))
def test_it_finds_the_best_of_all_placements_of_a_chain(seed):
    problem = GraphProblem(drawn_graph(6, seed, extra=0), drawn_pool(3, seed), microbatches=100)
    assert op_fence(problem).step_s == pytest.approx(best_of_all(problem), rel=0.01)


@pytest.mark.parametrize("seed", range(8))
def test_it_is_near_the_best_of_all_placements_of_a_tiny_graph(seed):
    problem = GraphProblem(drawn_graph(6, seed, extra=1.5), drawn_pool(3, seed), microbatches=8)
    assert op_fence(problem).step_s <= 1.1 * best_of_all(problem)


def test_memory_is_respected_or_refused_with_a_remedy():
    graph = OperatorGraph(tuple(Operator(f"op{i}", 1e9, 2**30) for i in range(8)))
    pool = Pool(tuple(machine(f"m{i}", memory_gib=3) for i in range(3)), {}, FAST)
    placement = op_fence(GraphProblem(graph, pool))
    check(GraphProblem(graph, pool), placement)
    assert len(placement.pieces) == 3
    with pytest.raises(DoesNotFit, match="add machines"):
        op_fence(GraphProblem(graph, pool, bytes_per_parameter_byte=2))


def test_a_published_fleet_is_placed_the_same_way_twice():
    problem = GraphProblem(drawn_graph(80, 0), shipped_fleet("dtfm-5"))
    assert op_fence(problem, seed=1) == op_fence(problem, seed=1)
    check(problem, op_fence(problem))


def test_graphs_that_cannot_be_are_refused():
    one, two = Operator("a", 1.0), Operator("b", 1.0)
    wrong = [
        (lambda: OperatorGraph((one, one)), "names of their own"),
        (lambda: OperatorGraph((one,), (DataEdge("a", "c", 1),)), "'c'"),
        (lambda: OperatorGraph((one, two), (DataEdge("a", "b", 1), DataEdge("b", "a", 1))), "break the cycle"),
        (lambda: OperatorGraph((one, two), (DataEdge("a", "b", -1),)), "give zero or more"),
        (lambda: OperatorGraph((Operator("a", float("nan")),)), "give zero or more"),
    ]
    for make, says in wrong:
        with pytest.raises(InvalidRequest, match=says):
            make()
