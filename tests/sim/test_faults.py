from math import inf

import numpy as np
import pytest

from muster.errors import InvalidRequest
from muster.sim.faults import FaultTimeline
from muster.sim.serve.arrivals import Arrival, at_once, poisson, trace
from muster.spec.faults import CutLink, Leave, Slow


def test_a_machine_is_as_slow_as_the_last_fault_says():
    faults = FaultTimeline([Slow("a", 5.0, 0.5), Slow("a", 2.0, 0.25), Slow("a", 9.0, 1.0)])
    assert [faults.speed("a", now_s) for now_s in (0, 2, 4.9, 5, 8, 9)] == [1, 0.25, 0.25, 0.5, 0.5, 1]
    assert faults.speed("b", 5.0) == 1


def test_a_cut_link_carries_again_when_all_cuts_are_over():
    faults = FaultTimeline([CutLink("a", "b", 1.0, 3.0), CutLink("b", "a", 2.5, 4.0), CutLink("a", "c", 0.0)])
    assert faults.passable_s("a", "b", 0.5) == 0.5
    assert faults.passable_s("b", "a", 1.0) == 4.0
    assert faults.passable_s("c", "a", 1.0) == inf


@pytest.mark.parametrize("fault", [Leave("a", -1.0), Slow("a", 0.0, 0.0), CutLink("a", "b", 2.0, 1.0), Leave("a", inf)])
def test_faults_that_cannot_be_are_refused(fault):
    with pytest.raises(InvalidRequest):
        FaultTimeline([fault])


def test_poisson_arrivals_have_their_rate_and_their_seed():
    some, same = (poisson(4.0, 4000, 100, 50, np.random.default_rng(7), spread=0.5) for _ in range(2))
    assert some == same
    assert some[-1].at_s == pytest.approx(1000, rel=0.05)
    assert np.mean([arrival.prompt_tokens for arrival in some]) == pytest.approx(100, rel=0.02)
    assert {arrival.output_tokens for arrival in some} == set(range(25, 76))


def test_offline_work_and_traces_come_in_order():
    assert at_once(3, 10, 5, np.random.default_rng(0)) == (Arrival(0.0, 10, 5),) * 3
    assert [arrival.at_s for arrival in trace([(2.0, 10, 5), (0.5, 7, 3)])] == [0.5, 2.0]
    with pytest.raises(InvalidRequest, match="lengths at least 1"):
        trace([(0.0, 0, 5)])
