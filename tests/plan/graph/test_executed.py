"""Placements as executed steps, and graphs with fewer operators."""

import numpy as np
import pytest

from muster.plan.graph.baselines import equal_count
from muster.plan.graph.coarse import coarsened
from muster.plan.graph.executed import executed, sent_bytes
from muster.plan.graph.fence import op_fence
from muster.plan.graph.placement import GraphProblem
from muster.spec.operator_graph import DataEdge, Operator, OperatorGraph
from tests.plan.graph.test_fence import check, drawn_graph, sites


def light(graph):
    operators = tuple(Operator(one.name, one.flops / 1e4, one.parameter_bytes) for one in graph.operators)
    return OperatorGraph(operators, graph.edges)


def test_a_value_that_several_operators_read_is_sent_once():
    operators = tuple(Operator(name, 1e9) for name in ("a", "b", "c", "d"))
    pairs = [("a", "b"), ("a", "c"), ("a", "d"), ("c", "d")]
    graph = OperatorGraph(operators, tuple(DataEdge(source, target, 100) for source, target in pairs))
    problem = GraphProblem(graph, sites((2,))[0])
    assert sent_bytes(problem, equal_count(problem)) == {(0, 1): 100}, "and not once for each of two readers"


def test_shrinking_links_shorten_a_step_that_waits_for_them():
    pool, _ = sites((3, 3), 1)
    problem = GraphProblem(light(drawn_graph(24, 1)), pool)
    placement = equal_count(problem)
    raw = executed(problem, placement)
    small = executed(problem, placement, dict.fromkeys(sent_bytes(problem, placement), 100.0))
    assert small.step_s < raw.step_s / 3
    assert small.busy_s == raw.busy_s
    assert executed(problem, op_fence(problem)).step_s < raw.step_s


def test_a_coarse_graph_has_all_work_and_all_parameters_and_no_cycle():
    rng = np.random.default_rng(3)
    operators = tuple(Operator(f"o{i}", float(rng.choice([1.0, 1e6])), int(rng.choice([0, 1000]))) for i in range(40))
    pairs = {(int(rng.integers(max(0, i - 3), i)), i) for i in range(1, 39) for _ in range(2)}
    graph = OperatorGraph(operators, tuple(DataEdge(f"o{a}", f"o{b}", 10) for a, b in sorted(pairs)))
    coarse = coarsened(graph)
    assert len(coarse.graph.operators) < 40
    counter = OperatorGraph((Operator("a", 1e9), Operator("b", 1e9), Operator("counter", 1.0)), ())
    assert coarsened(counter).members == {"a": ("a",), "b": ("b", "counter")}
    assert sum(one.flops for one in coarse.graph.operators) == pytest.approx(sum(one.flops for one in operators))
    assert sum(one.parameter_bytes for one in coarse.graph.operators) == sum(one.parameter_bytes for one in operators)
    assert sorted(coarse.names(list(coarse.members))) == sorted(graph.index)
    assert len(coarse.graph.order) == len(coarse.graph.operators)


def test_everyone_may_have_to_take_part():
    pool, _ = sites((2, 2), 1)
    problem = GraphProblem(light(drawn_graph(12, 2)), pool)
    assert len(op_fence(problem).pieces) < 4
    everyone = op_fence(problem, everyone=True)
    check(problem, everyone)
    assert len(everyone.pieces) == 4
