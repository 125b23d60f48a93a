"""What a change costs, and when it is worth that."""

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.cost.pace import seconds
from muster.cost.work import prefill
from muster.plan.quick.planner import as_plan
from muster.plan.quick.tables import PlanOptions
from muster.plan.replan.change import SWITCH_S, Change, Situation, change_to, moved_bytes, tokens_per_s, worth
from muster.spec.plan import Plan, Stage
from muster.spec.pool import LinkSpeed
from tests.plan.fleets import MIB, node, pool, shape

MODEL = shape()
OPTIONS = PlanOptions(min_context=512)
NEAR = LinkSpeed(0.001, 1e9)


def fleet(*nodes):
    names = [machine.id for machine in nodes]
    return pool(*nodes, links={(a, b): NEAR for a in names for b in names if a != b})


def plan(machines, *stages, pages=32):
    return as_plan(MODEL, machines, [Stage(*stage) for stage in stages], pages, OPTIONS, "made up")


def change(**fields):
    made = {"moved_bytes": 0, "load_seconds": 0.0, "disturbance_s": 0.0, "before": 10.0, "gain": 5.0} | fields
    return Change(plan=Plan("model", ()), **made)


def test_only_what_a_machine_does_not_hold_is_moved():
    machines = fleet(node("a"), node("b"), node("c"))
    old = plan(machines, ("a", 0, 4), ("b", 4, 8)).pipelines[0]
    new = plan(machines, ("a", 0, 3), ("b", 3, 8)).pipelines[0]
    assert moved_bytes(MODEL, old, old) == 0
    assert moved_bytes(MODEL, old, new) == 100 * MIB
    assert moved_bytes(MODEL, None, new) == MODEL.weight_bytes(0, 8)
    replaced = plan(machines, ("c", 0, 4), ("b", 4, 8)).pipelines[0]
    assert moved_bytes(MODEL, old, replaced) == MODEL.weight_bytes(0, 4)
    swapped = plan(machines, ("b", 0, 4), ("a", 4, 8)).pipelines[0]
    assert moved_bytes(MODEL, old, swapped) == MODEL.weight_bytes(0, 8), "neither has anything of what it gets"


def test_weights_load_beside_what_serves_where_there_is_room_and_in_its_place_where_there_is_none():
    for memory_mib, beside in ((2000, True), (600, False)):
        machines = fleet(node("a", memory_mib), node("b", memory_mib))
        old, new = plan(machines, ("a", 0, 4), ("b", 4, 8)), plan(machines, ("a", 0, 3), ("b", 3, 8))
        now = Situation(old.pipelines[0], 1.0, fetch_bytes_per_s=lambda _: 10 * MIB)
        made = change_to(new, now, MODEL, machines, OPTIONS)
        seconds = (made.load_seconds, made.disturbance_s - SWITCH_S)
        assert seconds == pytest.approx((10.0, 0.0) if beside else (0.0, 10.0))


def test_a_stage_that_stays_as_it_is_costs_nothing_and_disks_are_read_at_their_speed():
    disk = replace(node("b", 2000).device, disk_bandwidth_bytes_per_s=50 * MIB)
    machines = fleet(node("a", 2000), replace(node("b", 2000), device=disk), node("c", 2000))
    old = plan(machines, ("a", 0, 4), ("c", 4, 8))
    now = Situation(old.pipelines[0], 1.0, fetch_bytes_per_s=lambda _: inf)
    assert change_to(old, now, MODEL, machines, OPTIONS).load_seconds == 0.0
    new = plan(machines, ("a", 0, 4), ("b", 4, 8))
    wanted_s = MODEL.weight_bytes(4, 8) / (50 * MIB)
    assert change_to(new, now, MODEL, machines, OPTIONS).load_seconds == pytest.approx(wanted_s)


def test_running_requests_compute_their_cache_again():
    machines = fleet(node("a", 2000), node("b", 2000))
    old = plan(machines, ("a", 0, 4), ("b", 4, 8))
    now = Situation(old.pipelines[0], 1.0, cached_tokens=1000)
    full = prefill(MODEL, 4, 8, OPTIONS.workspace.prefill_tokens)
    step_s = seconds(full, machines.nodes[1].device, MODEL.dtype, OPTIONS.constants)
    again_s = 1000 * step_s / OPTIONS.workspace.prefill_tokens
    assert change_to(old, now, MODEL, machines, OPTIONS).disturbance_s == pytest.approx(again_s + SWITCH_S)


def test_a_ring_makes_fewer_tokens_with_a_slow_machine_a_long_way_or_little_cache():
    stages = (("a", 0, 4), ("b", 4, 8))
    machines = fleet(node("a", 2000), node("b", 2000))
    whole = tokens_per_s(plan(machines, *stages, pages=2000).pipelines[0], MODEL, machines, OPTIONS)
    small = tokens_per_s(plan(machines, *stages, pages=40).pipelines[0], MODEL, machines, OPTIONS)
    slow = fleet(node("a", 2000), node("b", 2000, 0.5))
    far = replace(machines, links=dict.fromkeys(machines.links, LinkSpeed(10.0, 1e9)))
    others = [tokens_per_s(plan(them, *stages, pages=2000).pipelines[0], MODEL, them, OPTIONS) for them in (slow, far)]
    assert 0 < small < whole / 2
    assert all(0 < other < 0.8 * whole for other in others)


def test_a_ring_that_is_broken_or_lacks_a_machine_makes_nothing():
    machines = fleet(node("a"), node("b"))
    made = plan(machines, ("a", 0, 4), ("b", 4, 8)).pipelines[0]
    cut = replace(machines, links={("a", "b"): LinkSpeed(0.1, 0.0)})
    assert tokens_per_s(made, MODEL, cut, OPTIONS) == 0.0
    assert tokens_per_s(made, MODEL, replace(machines, nodes=machines.nodes[:1]), OPTIONS) == 0.0


def test_a_gain_must_pay_for_the_disturbance_and_more_before_the_horizon():
    made = change(disturbance_s=20.0, load_seconds=10.0)  # loses 200 tokens, gains 5 in each second after the first 30
    assert not worth(made, horizon_s=30 + 40 + 19, margin=0.5)
    assert worth(made, horizon_s=30 + 40 + 21, margin=0.5)
    assert not worth(change(load_seconds=1000.0), horizon_s=600.0), "it would be over before it began"


def test_a_gain_that_may_be_an_error_of_the_forecast_is_none():
    assert not worth(change(gain=2.0), 1e9)
    assert worth(change(gain=2.1), 1e9)
    assert worth(change(before=0.0, gain=0.1), 1e9), "anything is better than nothing"
    assert not worth(change(before=0.0, gain=0.0), 1e9)


times = st.floats(0.0, 1e4)


@given(times, times, st.floats(0.0, 1e3), st.floats(-1e3, 1e3), times)
def test_what_is_worth_it_wins_tokens(load_s, disturbance_s, before, gain, horizon_s):
    made = change(load_seconds=load_s, disturbance_s=disturbance_s, before=before, gain=gain)
    if worth(made, horizon_s):
        with_it = (before + gain) * max(0.0, horizon_s - load_s - disturbance_s) + before * min(load_s, horizon_s)
        assert with_it >= before * horizon_s * (1 - 1e-9)
