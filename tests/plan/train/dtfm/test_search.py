"""What the search promises: legal plans, never below the bound, the same for the same seed, and as good as is known."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.dtfm_genetic import GeneticOptions, genetic
from benchmarks.training_fleets import BEST_KNOWN_S, irregular, of_cities, published
from muster.errors import InvalidRequest
from muster.plan.train.dtfm.anneal import Schedule
from muster.plan.train.dtfm.bound import lower_bound
from muster.plan.train.dtfm.exact import exact
from muster.plan.train.dtfm.search import SearchOptions, search
from tests.examples import examples
from tests.plan.train.dtfm import plain
from tests.plan.train.dtfm.problems import random_problem, small_problems

SHORT = SearchOptions(rounds=1, walks=1, schedule=Schedule(steps=1000), refining=Schedule(steps=500))


def check(problem, placement):
    """Every machine once, rows are pipelines, and the cost is what an independent evaluator finds."""
    assert len(placement.grid) == problem.replicas
    assert all(len(row) == problem.stages for row in placement.grid)
    assert sorted(machine for row in placement.grid for machine in row) == list(range(problem.count))
    cost = (placement.cost.data_parallel_s, placement.cost.pipeline_s)
    assert cost == pytest.approx(plain.along(problem, placement.grid))
    assert cost == pytest.approx(plain.communication(problem, tuple(zip(*placement.grid, strict=True))))


@pytest.mark.parametrize("number", BEST_KNOWN_S)
def test_the_published_fleets_are_placed_as_well_as_is_known(number):
    problem = published(number)
    found = search(problem, seed=number, options=SHORT)
    check(problem, found.placement)
    assert round(found.placement.cost.total_s, 3) <= BEST_KNOWN_S[number]
    assert found.bound_s <= found.placement.cost.total_s * (1 + 1e-9)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_four_published_fleets_are_solved_to_proven_optimality(number):
    found = search(published(number), seed=0)
    assert found.gap < 1e-9
    assert found.finished
    assert found.rounds == 0


@pytest.mark.parametrize("seed", range(3))
def test_irregular_fleets_are_placed_legally_and_above_the_bound(seed):
    problem = of_cities(*irregular(seed))
    found = search(problem, seed, SHORT)
    check(problem, found.placement)
    assert lower_bound(problem) == found.bound_s <= found.placement.cost.total_s
    assert found.gap == pytest.approx(found.placement.cost.total_s / found.bound_s - 1)


@examples(40)
@given(small_problems, st.integers(0, 1000))
def test_small_fleets_are_placed_legally_and_above_the_bound(problem, seed):
    found = search(problem, seed, replace(SHORT, schedule=Schedule(steps=200), refining=Schedule(steps=100)))
    check(problem, found.placement)
    assert found.bound_s <= found.placement.cost.total_s * (1 + 1e-9)
    assert found.finished


@examples(40)
@given(small_problems)
def test_no_partition_is_below_the_exact_optimum_and_that_is_not_below_the_bound(problem):
    best = exact(problem)
    check(problem, best)
    groups = plain.partitions(list(range(problem.count)), problem.replicas)
    some = [sum(plain.communication(problem, one)) for one, _ in zip(groups, range(40), strict=False)]
    assert min(some) >= best.cost.total_s * (1 - 1e-9)
    assert lower_bound(problem) <= best.cost.total_s * (1 + 1e-9)


@pytest.mark.parametrize(("replicas", "stages", "regions"), [(2, 3, 0), (3, 2, 2), (2, 4, 3), (4, 2, 0)])
def test_the_exact_search_finds_what_trying_every_partition_finds(replicas, stages, regions):
    problem = random_problem(replicas, stages, 7, regions)
    every = plain.partitions(list(range(problem.count)), replicas)
    best = min(sum(plain.communication(problem, one)) for one in every)
    assert exact(problem).cost.total_s == pytest.approx(best)


@pytest.mark.parametrize("seed", range(8))
def test_the_search_finds_the_optimum_of_small_fleets(seed):
    problem = random_problem(4, 3, seed, regions=seed % 4)
    found = search(
        problem, seed, SearchOptions(rounds=3, walks=2, schedule=Schedule(steps=1500), refining=Schedule(steps=1500))
    )
    assert found.placement.cost.total_s == pytest.approx(exact(problem).cost.total_s)


def test_the_same_seed_gives_the_same_plan():
    problem = of_cities(*irregular(1))
    assert search(problem, 4, SHORT) == search(problem, 4, SHORT)
    few = GeneticOptions(population=10, evaluations=40)
    assert genetic(problem, 4, few) == genetic(problem, 4, few) != genetic(problem, 5, few)


def test_the_genetic_yardstick_is_legal_and_does_better_with_more_evaluations():
    problem = of_cities(*irregular(2))
    first, longer = (genetic(problem, 0, GeneticOptions(20, evaluations)) for evaluations in (20, 200))
    check(problem, longer)
    assert lower_bound(problem) <= longer.cost.total_s < first.cost.total_s


def test_a_search_that_runs_out_of_time_says_so_and_is_still_legal():
    problem = of_cities(*irregular(0))
    asked = iter([False] * 5 + [True] * 1000)
    found = search(problem, 0, out_of_time=lambda: next(asked))
    check(problem, found.placement)
    assert not found.finished


def test_a_fleet_without_two_machines_alike_is_placed():
    problem = published(5)
    noise = np.random.default_rng(0).uniform(0.95, 1.05, problem.latency_s.shape)
    problem = replace(problem, bandwidth_bytes_per_s=problem.bandwidth_bytes_per_s * noise)
    assert len(set(problem.kinds)) == 64
    found = search(problem, 0, SHORT)
    check(problem, found.placement)
    assert found.bound_s <= found.placement.cost.total_s < 1.05 * BEST_KNOWN_S[5]


def test_too_much_is_refused_with_a_remedy():
    with pytest.raises(InvalidRequest, match="lower bound"):
        exact(published(1))
    with pytest.raises(InvalidRequest, match="give at most 16"):
        search(random_problem(1, 17, 0), 0)
