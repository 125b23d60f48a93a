"""The objective against an evaluator that shares no code with it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.training_fleets import BEST_KNOWN_S, irregular, of_cities, published
from muster.errors import InvalidRequest
from muster.plan.train.dtfm.costs import Costs
from muster.plan.train.dtfm.objective import bottleneck, evaluate, shortest_path
from muster.plan.train.dtfm.problem import TrainJob, TrainProblem
from tests.examples import examples
from tests.plan.train.dtfm import plain
from tests.plan.train.dtfm.problems import random_problem, small_problems


def shuffled(problem, seed):
    rows = np.random.default_rng(seed).permutation(problem.count).reshape(problem.stages, problem.replicas)
    return tuple(tuple(map(int, row)) for row in rows)


def check_cost(problem, partition):
    placement = evaluate(problem, partition)
    expected = plain.communication(problem, partition)
    assert (placement.cost.data_parallel_s, placement.cost.pipeline_s) == pytest.approx(expected)
    assert plain.along(problem, placement.grid) == pytest.approx(expected)
    assert Costs(problem).total_s(partition) == pytest.approx(sum(expected))


@examples(80)
@given(small_problems, st.integers(0, 1000))
def test_small_partitions_cost_what_the_equations_say(problem, seed):
    check_cost(problem, shuffled(problem, seed))


@pytest.mark.parametrize("number", BEST_KNOWN_S)
def test_partitions_of_the_published_fleets_cost_what_the_equations_say(number):
    for seed in range(2):
        check_cost(published(number), shuffled(published(number), seed))


def test_whole_pipelines_per_region_cost_what_is_known():
    columns = tuple(tuple(range(stage, 64, 8)) for stage in range(8))
    for number in (1, 3, 4, 5):
        total_s = evaluate(published(number), columns).cost.total_s
        assert total_s == pytest.approx(BEST_KNOWN_S[number], abs=0.0005)


@examples(100)
@given(st.integers(1, 5), st.integers(0, 10**6))
def test_a_bottleneck_matching_is_the_best_of_all_permutations(size, seed):
    cost = np.random.default_rng(seed).integers(1, 8, (size, size)).astype(float)
    slowest, partners = bottleneck(cost)
    assert sorted(partners) == list(range(size))
    assert slowest == max(cost[row, column] for row, column in enumerate(partners))
    assert slowest == min(max(cost[i, j] for i, j in enumerate(p)) for p in plain.permutations(range(size)))


@examples(60)
@given(st.integers(1, 6), st.integers(0, 10**6))
def test_a_path_is_the_shortest_of_all_orders(count, seed):
    weights = np.random.default_rng(seed).uniform(1, 9, (count, count))
    weights = weights + weights.T
    length, order = shortest_path(weights)
    assert sorted(order) == list(range(count))
    assert length == pytest.approx(plain.path(weights))
    assert length == pytest.approx(sum(weights[i, j] for i, j in plain.pairwise(order)))


@examples(60)
@given(small_problems, st.integers(0, 1000))
def test_the_quick_bound_of_an_edge_is_never_above_it(problem, seed):
    costs = Costs(problem)
    columns = [costs.of_group(group) for group in shuffled(problem, seed)]
    for one, two in plain.pairwise(columns):
        least, edge = costs.least_edge(one, two), costs.edge(one, two)
        assert least.slowest_s <= edge.slowest_s
        assert least.mean_s <= edge.mean_s * (1 + 1e-12)
        assert costs.least_edge(one, two) is edge


def test_directions_of_a_link_are_averaged():
    latency, bandwidth = np.array([[0, 0.1], [0.3, 0]]), np.array([[1, 1e9], [3e9, 1]])
    problem = TrainProblem(latency, bandwidth, TrainJob(1, 2, 0.0, 1e9))
    assert evaluate(problem, ((0,), (1,))).cost.total_s == pytest.approx(2 * (0.2 + 0.5))


def test_machines_of_one_region_are_of_one_kind():
    cities, sizes = irregular(0)
    assert (of_cities(cities, sizes).kinds == np.repeat(np.arange(len(sizes)), sizes)).all()
    assert len(set(random_problem(3, 2, 0).kinds)) == 6


GOOD = {"latency_s": np.zeros((4, 4)), "bandwidth_bytes_per_s": np.ones((4, 4)), "job": TrainJob(2, 2, 1.0, 1.0)}
BAD = [
    ({"latency_s": np.zeros((2, 3))}, "row and column per machine"),
    ({"latency_s": np.zeros((3, 3))}, "both for the same machines"),
    ({"latency_s": np.full((4, 4), -1.0)}, "seconds, zero or more"),
    ({"bandwidth_bytes_per_s": np.zeros((4, 4))}, "bytes per second above zero"),
    ({"bandwidth_bytes_per_s": np.full((4, 4), np.nan)}, "bytes per second above zero"),
    ({"job": TrainJob(3, 2, 1.0, 1.0)}, "uses every machine once"),
]


@pytest.mark.parametrize(("change", "remedy"), BAD)
def test_bad_links_are_refused_with_a_remedy(change, remedy):
    TrainProblem(**GOOD)
    with pytest.raises(InvalidRequest, match=remedy):
        TrainProblem(**{**GOOD, **change})


def test_a_job_that_makes_no_sense_is_refused_with_a_remedy():
    with pytest.raises(InvalidRequest, match="at least one of each"):
        TrainJob(0, 2, 1.0, 1.0)
    with pytest.raises(InvalidRequest, match="zero or more"):
        TrainJob(2, 2, -1.0, 1.0)
    with pytest.raises(InvalidRequest, match="zero or more"):
        TrainJob(2, 2, 1.0, float("nan"))
