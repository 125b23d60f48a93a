"""Runs of equal stages: random ones use every machine, trades keep them in use, and walks only tell what holds."""

from itertools import pairwise

import numpy as np
import pytest

from benchmarks.dtfm_genetic import CyclicMoves, GeneticOptions, accepted, genetic
from benchmarks.training_fleets import irregular, of_cities, published
from muster.plan.train.dtfm.anneal import Schedule, Walk, anneal, path_of, runs_of, runs_s, uniforms
from muster.plan.train.dtfm.costs import Costs
from muster.plan.train.dtfm.fill import possible_widths, random_runs
from muster.plan.train.dtfm.trades import trades
from tests.plan.train.dtfm.problems import random_problem


def machines_of_kinds(runs):
    counts = {}
    for run in runs:
        for kind, count in run.column.mix.items():
            counts[kind] = counts.get(kind, 0) + run.width * count
    return counts


def every_machine(costs):
    return dict(enumerate(np.bincount(costs.kinds).tolist()))


@pytest.mark.parametrize("seed", range(4))
def test_random_runs_have_the_lengths_asked_for_and_use_every_machine_once(seed):
    costs, rng = Costs(of_cities(*irregular(seed))), np.random.default_rng(seed)
    for widths in possible_widths(costs, rng):
        runs = random_runs(costs, widths, rng)
        assert sorted(run.width for run in runs) == sorted(widths)
        assert all(sum(run.column.mix.values()) == 8 for run in runs)
        assert machines_of_kinds(runs) == every_machine(costs)


def test_lengths_that_a_fleet_cannot_fill_are_not_offered():
    rng = np.random.default_rng(0)
    lonely = Costs(random_problem(2, 4, 0))
    assert possible_widths(lonely, rng) == [(1, 1, 1, 1)]
    islands = possible_widths(Costs(published(2)), rng)
    assert (4, 4) in islands
    assert (8,) not in islands


def test_every_trade_leaves_as_many_machines_in_use_as_before():
    twos, threes = trades((5, 2, 1))
    assert ((0, 2), (1, -5)) in twos
    assert ((0, 1), (1, -2), (2, -1)) in threes
    for widths in [(5, 2, 1), (3, 3, 2), (1, 1, 1, 1)]:
        for trade in [*trades(widths)[0], *trades(widths)[1]]:
            assert sum(widths[run] * more for run, more in trade) == 0
            assert len({run for run, _ in trade}) == len(trade)


@pytest.mark.parametrize("seed", range(3))
def test_a_walk_keeps_every_machine_in_use_and_knows_its_energy(seed):
    costs, rng = Costs(of_cities(*irregular(seed))), np.random.default_rng(seed)
    runs = random_runs(costs, possible_widths(costs, rng)[-2], rng)
    walk = Walk(costs, runs, 0.2, uniforms(rng))
    made = sum(walk.step(50.0) for _ in range(1500))
    assert made > 100
    assert machines_of_kinds(walk.runs) == every_machine(costs)
    assert walk.energy == pytest.approx(Walk(costs, walk.runs, 0.2, uniforms(rng)).energy)
    assert walk.energy <= runs_s(costs, walk.runs)


def test_annealing_returns_nothing_worse_than_it_began_with():
    costs, rng = Costs(of_cities(*irregular(5))), np.random.default_rng(5)
    runs = random_runs(costs, (6, 1, 1), rng)
    better = anneal(costs, runs, Schedule(steps=500), rng)
    assert runs_s(costs, better) < runs_s(costs, runs)
    path = path_of(better)
    along = max(column.data_s for column in path) + sum(costs.edge(a, b).slowest_s for a, b in pairwise(path))
    assert runs_s(costs, better) == pytest.approx(along)
    assert path_of(runs_of(path)) == path


class Rising(CyclicMoves):
    """Every cycle gains something and leaves its number."""

    def cycle(self):
        self.labels = self.labels + 1
        return 1.0


def test_the_published_code_never_keeps_the_last_of_its_cycles():
    problem, labels = of_cities(*irregular(3)), np.zeros(64, dtype=int)
    assert set(Rising(problem, labels).run()) == {problem.stages}
    assert set(Rising(problem, labels, as_published=True).run()) == {problem.stages - 1}


def test_both_readings_of_the_published_search_are_legal_and_differ():
    problem = of_cities(*irregular(3))
    one, two = (genetic(problem, 0, GeneticOptions(10, 60, as_published)) for as_published in (True, False))
    assert one != two
    for placement in (one, two):
        assert sorted(machine for row in placement.grid for machine in row) == list(range(64))


def test_the_published_code_looks_at_the_first_parent_only():
    assert accepted(5.0, first_s=6.0, second_s=4.0, as_published=True)
    assert not accepted(5.0, first_s=4.0, second_s=6.0, as_published=True)
    assert accepted(5.0, first_s=4.0, second_s=6.0, as_published=False)
    assert not accepted(7.0, first_s=4.0, second_s=6.0, as_published=False)
