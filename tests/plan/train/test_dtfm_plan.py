"""A plan by DT-FM's objective: the published costs by name, and the promises of every plan."""

from dataclasses import replace

import pytest

from benchmarks.training_fleets import BEST_KNOWN_S
from muster.cost.named_shapes import named_shape
from muster.errors import DoesNotFit, InvalidRequest
from muster.plan.train.dtfm.anneal import Schedule
from muster.plan.train.dtfm.problem import TrainProblem
from muster.plan.train.dtfm.search import SearchOptions
from muster.plan.train.dtfm_plan import dtfm_plan
from muster.spec.fleets import shipped_fleet
from muster.spec.pool import Pool
from muster.spec.workload import TrainWorkload
from tests.plan.train.dtfm import plain

SHORT = SearchOptions(rounds=1, walks=2, schedule=Schedule(steps=1500), refining=Schedule(steps=1000))


def some_of(fleet, count):
    pool = shipped_fleet(fleet)
    return Pool(pool.nodes[:: len(pool.nodes) // count], pool.links, pool.default_link)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_gpt3_xl_on_a_published_fleet_costs_what_is_best_known(number):
    pool = shipped_fleet(f"dtfm-{number}")
    found = dtfm_plan(named_shape("gpt3-xl"), pool, options=SHORT)
    assert round(found.cost_s, 3) <= BEST_KNOWN_S[number]
    assert found.cost_s == pytest.approx(found.data_parallel_s + found.pipeline_s)
    index = {node.name: machine for machine, node in enumerate(pool.nodes)}
    grid = [[index[name] for name in row] for row in found.placement]
    problem = TrainProblem.of_pool(pool, found.job)
    assert plain.along(problem, grid) == pytest.approx((found.data_parallel_s, found.pipeline_s))


def test_the_plan_holds_every_layer_once_in_each_replica_and_every_machine_once():
    shape, pool = named_shape("gpt3-xl"), some_of("dtfm-5", 16)
    plan = dtfm_plan(shape, pool, TrainWorkload(sequences=64), options=SHORT).plan
    used = [node for pipeline in plan.pipelines for node in pipeline.nodes()]
    assert sorted(used) == sorted(node.id for node in pool.nodes)
    for pipeline in plan.pipelines:
        layers = [layer for stage in pipeline.stages for layer in range(stage.first, stage.last)]
        assert layers == list(range(shape.num_layers))
    assert sum(pipeline.train.num_microbatches * pipeline.train.microbatch for pipeline in plan.pipelines) >= 64


def test_counts_that_are_asked_for_are_kept():
    found = dtfm_plan(named_shape("gpt3-xl"), some_of("dtfm-5", 16), TrainWorkload(), stages=4, options=SHORT)
    assert [len(row) for row in found.placement] == [4] * 4


def test_what_cannot_be_placed_is_refused_with_a_remedy():
    shape, pool = named_shape("gpt3-xl"), some_of("dtfm-5", 16)
    with pytest.raises(InvalidRequest, match="change the counts or the fleet"):
        dtfm_plan(shape, pool, stages=3, options=SHORT)
    with pytest.raises(DoesNotFit, match="GiB on the smallest machine; recompute"):
        dtfm_plan(named_shape("llama-2-70b"), pool, options=SHORT)
    small = replace(pool.nodes[0], device=replace(pool.nodes[0].device, memory_bytes=10**9))
    with pytest.raises(DoesNotFit, match="leave the smallest machines out"):
        dtfm_plan(shape, Pool((small, *pool.nodes[1:]), pool.links, pool.default_link), options=SHORT)
