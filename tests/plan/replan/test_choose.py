"""The smallest change that is needed, or the one that gains most."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.errors import PoolUnavailable
from muster.plan.quick.planner import as_plan, place
from muster.plan.quick.tables import PlanOptions
from muster.plan.replan.change import Situation, change_to, moved_bytes, tokens_per_s, worth
from muster.plan.replan.choose import improved, mended
from muster.plan.replan.moves import small_moves
from muster.spec.plan import Stage
from muster.spec.pool import LinkSpeed, Pool
from tests.examples import examples
from tests.plan.fleets import MIB, check_plan, node, pool, shape

OPTIONS = PlanOptions(min_context=512)
MODEL = shape()
HORIZON_S = 600.0


def planner(model, machines, keep=None, options=OPTIONS):
    return place(model, machines, keep, options)


def without(machines, *names):
    return replace(machines, nodes=tuple(machine for machine in machines.nodes if machine.id not in names))


def serving(plan, machines, fetch=100 * MIB):
    pipeline = plan.pipelines[0]
    return Situation(pipeline, tokens_per_s(pipeline, MODEL, machines, OPTIONS), fetch_bytes_per_s=lambda _: fetch)


def lost(plan):
    return Situation(None, holders=plan.pipelines[0], fetch_bytes_per_s=lambda _: 100 * MIB)


def mend(machines, plan):
    return mended(planner, MODEL, machines, lost(plan), OPTIONS, HORIZON_S)


def improve(machines, situation):
    return improved(planner, MODEL, machines, situation, OPTIONS, HORIZON_S)


def cuts(*stages):
    return [Stage(*stage) for stage in stages]


def names(plan):
    return set(plan.pipelines[0].nodes())


def test_a_gap_that_nobody_idle_can_fill_is_closed_by_the_neighbours_with_fewer_bytes_than_planning_anew():
    whole = pool(*(node(name, 500) for name in "abcde"))
    whole = replace(whole, links={(a, b): LinkSpeed(0.05, 1e8) for a in "abcde" for b in "abcde" if a != b})
    moved = {"mended": 0, "anew": 0}
    for gone in "abc":
        before = as_plan(
            MODEL, whole, cuts(("e", 0, 2), ("a", 2, 4), ("c", 4, 6), ("b", 6, 8)), 400, OPTIONS, "made up"
        )
        left = without(whole, gone, "d")
        change = mend(left, before)
        check_plan(change.plan, MODEL, left, OPTIONS)
        moved["mended"] += change.moved_bytes
        moved["anew"] += moved_bytes(MODEL, before.pipelines[0], planner(MODEL, left).pipelines[0])
    assert moved["mended"] < 0.8 * moved["anew"]


def test_closing_up_may_not_move_more_than_planning_anew_however_fast_it_would_be():
    left = pool(node("a", 2000), node("b", 2000))
    before = as_plan(
        MODEL, pool(*left.nodes, node("c")), cuts(("a", 0, 6), ("c", 6, 7), ("b", 7, 8)), 32, OPTIONS, "made up"
    )

    def anew(model, machines, keep, options):
        return planner(model, machines, None, options)

    change = mended(anew, MODEL, left, lost(before), OPTIONS, HORIZON_S)
    assert change.moved_bytes == MODEL.weight_bytes(6, 8), "a has the rest already"


def test_a_standby_with_little_room_for_running_streams_shares_its_layers_with_the_others():
    before = cuts(("a", 0, 2), ("b", 2, 5), ("c", 5, 8))
    for memory, layers in ((360, (3, 5)), (600, (2, 5))):
        left = pool(node("a", 430), node("c", 430), node("d", memory))
        plan = as_plan(MODEL, pool(*left.nodes, node("b", 430)), before, 250, OPTIONS, "made up")
        change = mend(left, plan)
        check_plan(change.plan, MODEL, left, OPTIONS)
        assert Stage("d", *layers) in change.plan.pipelines[0].stages
        assert change.plan.pipelines[0].serve.num_pages >= 250


def test_the_rest_change_places_where_only_that_keeps_room_for_the_running_streams():
    machines = pool(node("a", 500), node("b", 300), node("c", 400), node("d", 300))
    before = planner(MODEL, machines)
    change = mend(without(machines, "d"), before)
    check_plan(change.plan, MODEL, without(machines, "d"), OPTIONS)
    assert before.pipelines[0].nodes() == ("d", "c", "b", "a")
    assert change.plan.pipelines[0].nodes() == ("b", "c", "a"), "c has no room for the embedding beside its share"
    assert change.plan.pipelines[0].serve.num_pages >= before.pipelines[0].serve.num_pages


machine = st.tuples(st.integers(150, 900), st.sampled_from([0.3, 1.0, 4.0]))
fleets = st.lists(machine, min_size=2, max_size=7)
latencies = st.lists(st.sampled_from([0.001, 0.02, 0.2]), min_size=49, max_size=49)


def fleet_of(sizes, ways) -> Pool:
    ids = [f"n{i}" for i in range(len(sizes))]
    links = {(a, b): LinkSpeed(ways[7 * i + j], 1e8) for i, a in enumerate(ids) for j, b in enumerate(ids) if a != b}
    return pool(*(node(f"n{i}", *size) for i, size in enumerate(sizes)), links=links)


@examples(60)
@given(fleets, latencies, st.sets(st.integers(0, 6), min_size=1, max_size=3))
def test_a_loss_is_always_mended_if_anybody_can_and_with_more_bytes_than_planning_anew_only_for_more_tokens(
    sizes, ways, gone
):
    machines = fleet_of(sizes, ways)
    left = without(machines, *(f"n{i}" for i in gone))
    try:
        before = planner(MODEL, machines)
        anew = planner(MODEL, left)
    except PoolUnavailable:
        return
    change = mend(left, before)
    check_plan(change.plan, MODEL, left, OPTIONS)
    if change.moved_bytes > moved_bytes(MODEL, before.pipelines[0], anew.pipelines[0]):
        assert change.gain > tokens_per_s(anew.pipelines[0], MODEL, left, OPTIONS), "worth its weights"
    assert change.gain > 0


@examples(30)
@given(fleets, latencies)
def test_every_small_move_is_a_sound_plan_and_another_one(sizes, ways):
    machines = fleet_of(sizes, ways)
    try:
        keep = planner(MODEL, machines).pipelines[0]
    except PoolUnavailable:
        return
    seen = {keep.stages}
    for stages, pages in small_moves(MODEL, machines, keep, len(sizes), OPTIONS):
        assert stages not in seen
        seen.add(stages)
        plan = as_plan(MODEL, machines, stages, pages, OPTIONS, "a move")
        check_plan(plan, MODEL, machines, replace(OPTIONS, max_sequences=10**6))


@examples(30)
@given(fleets, fleets, latencies)
def test_an_improvement_is_at_least_as_good_as_planning_anew(sizes, later_sizes, ways):
    machines, later = fleet_of(sizes, ways), fleet_of(later_sizes, ways)
    try:
        situation = serving(planner(MODEL, machines), machines)
        anew = change_to(planner(MODEL, later), situation, MODEL, later, OPTIONS)
    except PoolUnavailable:
        return
    change = improve(later, situation)
    check_plan(change.plan, MODEL, later, replace(OPTIONS, max_sequences=10**6))
    assert change.net_tokens(HORIZON_S) >= anew.net_tokens(HORIZON_S)


def test_an_outage_is_worth_less_the_more_has_to_move():
    machines = pool(node("a", 700), node("b", 700), node("c", 700, 1.6))
    plan = as_plan(MODEL, machines, cuts(("a", 0, 4), ("b", 4, 8)), 32, OPTIONS, "made up")
    quick, slow = (improve(machines, serving(plan, machines, fetch)) for fetch in (100 * MIB, 0.2 * MIB))
    assert worth(quick, HORIZON_S)
    assert "c" in names(quick.plan)
    assert not worth(slow, HORIZON_S)


def test_a_slow_machine_is_replaced_alone_where_moving_the_others_gains_nothing():
    machines = pool(node("a", 520), node("b", 520, 0.001), node("c", 520))
    plan = as_plan(MODEL, machines, cuts(("a", 0, 4), ("b", 4, 8)), 32, OPTIONS, "made up")
    change = improve(machines, serving(plan, machines, 5 * MIB))
    assert worth(change, HORIZON_S)
    assert change.plan.pipelines[0].stages == tuple(cuts(("a", 0, 4), ("c", 4, 8)))
    assert change.moved_bytes == MODEL.weight_bytes(4, 8)


def test_a_machine_that_hurts_is_dropped():
    far = LinkSpeed(3.0, 1e6)
    machines = pool(node("a", 700), node("b", 700), node("c", 700))
    plan = as_plan(MODEL, machines, cuts(("a", 0, 3), ("c", 3, 6), ("b", 6, 8)), 1500, OPTIONS, "made up")
    assert not worth(improve(machines, serving(plan, machines)), HORIZON_S)
    slow = replace(machines, links={pair: far for n in "ab" for pair in ((n, "c"), ("c", n))})
    change = improve(slow, serving(plan, slow))
    assert names(change.plan) == {"a", "b"}
    assert worth(change, HORIZON_S)


def test_a_machine_that_does_not_help_stays_a_standby():
    machines = pool(node("a", 1200))
    situation = serving(planner(MODEL, machines), machines)
    for newcomer in (node("z", 1200, 1.1), node("z", 300, 0.5), node("z", 100, 9.0)):
        assert not worth(improve(pool(*machines.nodes, newcomer), situation), HORIZON_S)
    better = improve(pool(*machines.nodes, node("z", 1200, 2.0)), situation)
    assert worth(better, HORIZON_S)
    assert better.gain == pytest.approx(situation.tokens_per_s, rel=0.05)
