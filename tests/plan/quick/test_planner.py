"""The quick planner against brute force, and what it promises in words."""

import re
from dataclasses import replace
from itertools import combinations
from math import inf
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.cost.memory import stage_bytes
from muster.errors import DoesNotFit, PoolUnavailable
from muster.plan.quick.planner import microbatches, place
from muster.plan.quick.tables import PlanOptions, Tables
from muster.spec.pool import LinkSpeed
from tests.examples import examples
from tests.plan.fleets import (
    MIB,
    best_by_brute_force,
    check_plan,
    every_pipeline,
    node,
    pool,
    ring_seconds,
    shape,
    slowest,
)

OPTIONS = PlanOptions(min_context=512)
EXACT = replace(OPTIONS, worth=0.0, max_microbatches=10**9)
"""Nothing but the slowest stage counts."""

machines = st.tuples(st.integers(100, 900), st.sampled_from([0.3, 0.5, 1.0, 1.1, 4.0]))
latencies = st.sampled_from([0.001, 0.02, 0.02, 0.08])
bandwidths = st.sampled_from([1e9, 1e7, 1e6])


@st.composite
def fleets(draw, largest: int = 4):
    nodes = [node(f"n{i}", *draw(machines)) for i in range(draw(st.integers(1, largest)))]
    names = [n.id for n in nodes]
    links = {(a, b): LinkSpeed(draw(latencies), draw(bandwidths)) for a in names for b in names if a != b}
    return pool(*nodes, links=links)


@examples(150)
@given(fleet=fleets(), layers=st.integers(1, 7))
def test_the_slowest_stage_is_the_least_that_brute_force_finds(fleet, layers):
    model = shape(layers)
    best = best_by_brute_force(model, fleet, EXACT)
    if best == inf:
        with pytest.raises(DoesNotFit):
            place(model, fleet, options=EXACT)
        return
    plan = place(model, fleet, options=EXACT)
    check_plan(plan, model, fleet, EXACT)
    stages = plan.pipelines[0].stages
    if any(len(stages) == 1 for stages in every_pipeline(model, fleet, EXACT)):
        best = min(slowest(s, model, fleet, EXACT) for s in every_pipeline(model, fleet, EXACT) if len(s) == 1)
    assert slowest(stages, model, fleet, EXACT) == pytest.approx(best)
    assert plan.step_seconds == pytest.approx(best)


@examples(60)
@given(fleet=fleets(), layers=st.integers(2, 6))
def test_no_order_with_the_same_slowest_stage_has_less_latency(fleet, layers):
    model = shape(layers)
    try:
        plan = place(model, fleet, options=EXACT)
    except DoesNotFit:
        return
    stages = plan.pipelines[0].stages
    if len(stages) == 1:
        return
    rivals = [
        ring_seconds(other, model, fleet, EXACT)
        for other in every_pipeline(model, fleet, EXACT)
        if len(other) == len(stages) and slowest(other, model, fleet, EXACT) <= plan.step_seconds * (1 + 1e-9)
    ]
    assert ring_seconds(stages, model, fleet, EXACT) == pytest.approx(min(rivals))


@examples(60)
@given(fleet=fleets(largest=6), layers=st.integers(1, 30), context=st.sampled_from([64, 2048, 32768]))
def test_any_plan_covers_every_layer_once_within_every_cap(fleet, layers, context):
    model = shape(layers, context=context)
    try:
        plan = place(model, fleet, options=OPTIONS)
    except DoesNotFit:
        return
    check_plan(plan, model, fleet, OPTIONS)
    assert plan == place(model, fleet, options=OPTIONS)


@examples(80)
@given(fleet=fleets(), sizes=st.lists(st.sampled_from([0.2, 1.0, 1.0, 2.5]), min_size=1, max_size=7))
def test_layers_of_different_sizes_are_placed_soundly(fleet, sizes):
    model = shape(sizes=sizes)
    try:
        plan = place(model, fleet, options=EXACT)
    except PoolUnavailable:
        return
    check_plan(plan, model, fleet, EXACT)


@examples(60)
@given(fleet=fleets(), layers=st.integers(1, 30))
def test_a_model_that_does_not_fit_fits_once_the_machine_that_the_error_asks_for_joins(fleet, layers):
    model = shape(layers)
    try:
        place(model, fleet, options=OPTIONS)
        return
    except DoesNotFit as error:
        text = str(error)
    wanted = re.search(r"at least ([\d.]+) (MiB|GiB)", text)
    assert wanted is not None, text
    mib = float(wanted[1]) * (1024 if wanted[2] == "GiB" else 1)
    richer = replace(fleet, nodes=(*fleet.nodes, node("new", mib)))
    check_plan(place(model, richer, options=OPTIONS), model, richer, OPTIONS)


def test_what_fits_on_one_machine_is_not_split_and_goes_to_the_fastest_that_holds_it():
    fleet = pool(node("slow", 4000, 1), node("fast", 4000, 3), node("fastest but small", 500, 9))
    plan = place(shape(), fleet, options=OPTIONS)
    assert plan.pipelines[0].nodes() == ("fast",)
    assert plan.pipelines[0].serve.num_microbatches == 1
    assert plan.standbys == ("slow", "fastest but small")


def test_a_machine_that_would_slow_the_ring_stays_on_standby():
    fleet = pool(node("a", 600), node("b", 600), node("crawler", 600, 0.01))
    assert sorted(place(shape(), fleet, options=OPTIONS).pipelines[0].nodes()) == ["a", "b"]


def test_a_machine_too_far_away_for_the_work_it_saves_stays_on_standby():
    tiny = shape(4, layer_mib=1, hidden=64)
    far = {(a, b): LinkSpeed(0.3, 1e9) for a in "abc" for b in "abc" if a != b and "c" in (a, b)}
    near = {("a", "b"): LinkSpeed(0.001, 1e9), ("b", "a"): LinkSpeed(0.001, 1e9)}
    fleet = pool(*(node(name, 58) for name in "abc"), links=far | near)
    plan = place(tiny, fleet, options=OPTIONS)
    assert sorted(plan.pipelines[0].nodes()) == ["a", "b"]


def test_machines_that_gain_less_than_their_worth_are_not_taken():
    fleet = pool(node("a", 700), node("b", 700), node("c", 700, 0.3))
    # nine layers: 5 + 4, or 4 + 4 + 1, which is a fifth faster
    assert len(place(shape(9), fleet, options=replace(OPTIONS, worth=0.3)).pipelines[0].stages) == 2
    assert len(place(shape(9), fleet, options=EXACT).pipelines[0].stages) == 3


def test_neighbours_in_one_region_follow_each_other():
    names = ["east1", "east2", "west1", "west2"]
    links = {(a, b): LinkSpeed(0.001 if a[:4] == b[:4] else 0.08, 1e9) for a in names for b in names if a != b}
    fleet = pool(*(node(name, 320) for name in names), links=links)
    plan = place(shape(), fleet, options=OPTIONS)
    assert ring_seconds(plan.pipelines[0].stages, shape(), fleet, OPTIONS) == pytest.approx(0.162, abs=0.001)


def test_a_broken_link_is_not_used():
    broken = {("a", "b"): LinkSpeed(0.01, 0.0), ("b", "a"): LinkSpeed(0.01, 0.0)}
    two = pool(node("a", 600), node("b", 600), links=broken)
    with pytest.raises(PoolUnavailable):
        place(shape(), two, options=OPTIONS)
    three = pool(*two.nodes, node("c", 600, 0.1), links=broken)
    assert "c" in place(shape(), three, options=OPTIONS).pipelines[0].nodes()


def test_pages_grow_with_the_memory_of_the_tightest_stage_up_to_what_can_be_used():
    def pages(mib):
        return place(shape(), pool(node("a", mib)), options=OPTIONS).pipelines[0].serve.num_pages

    assert OPTIONS.min_pages(shape()) <= pages(920) < pages(1200) < pages(50_000)
    assert pages(50_000) == OPTIONS.max_pages(shape())


def test_enough_steps_are_in_flight_to_hide_the_latency_of_the_ring():
    options = PlanOptions()
    # four stages, one-way latency of half a stage: two more than the stages (DeServe, section 4)
    assert microbatches(4, step_s=0.1, ring_s=4 * 0.05, options=options) == 6
    assert microbatches(4, step_s=0.1, ring_s=0.0, options=options) == 4
    assert microbatches(4, step_s=0.001, ring_s=1.0, options=options) == options.max_microbatches
    assert microbatches(1, step_s=0.1, ring_s=1.0, options=options) == 1


def test_an_empty_pool_says_how_much_memory_is_wanted():
    with pytest.raises(DoesNotFit, match=r"needs \d.* MiB; let machines join"):
        place(shape(), pool(), options=OPTIONS)


def test_a_plan_explains_itself_by_the_names_of_machines():
    text = place(shape(), pool(node("anna", 600), node("berta", 600)), options=OPTIONS).explanation
    assert "anna 4–7" in text
    assert "ms per step" in text


@pytest.mark.parametrize("layers", [80, 300])
def test_two_hundred_machines_are_planned_in_a_moment(layers):
    # 300 layers of 100 MiB are more than the twelve largest machines hold, so the long ring is tried too
    names = [f"n{i:03}" for i in range(200)]
    nodes = [node(name, 300 + 37 * (i * 7919 % 50), 0.5 + (i * 31 % 17) / 8) for i, name in enumerate(names)]
    links = {(a, b): LinkSpeed(0.001 * (1 + i * j % 80), 1e8) for i, a in enumerate(names) for j, b in enumerate(names)}
    fleet = pool(*nodes, links=links)
    model = shape(layers)
    place(model, pool(*nodes[:12]) if layers == 80 else fleet, options=OPTIONS)  # numpy warms up
    started = process_time()
    plan = place(model, fleet, options=OPTIONS)
    seconds = process_time() - started
    check_plan(plan, model, fleet, OPTIONS)
    assert seconds < 1.5, f"{seconds:.2f} s"  # 0.3 s on an idle core
    print(f"{layers} layers on 200 machines: {seconds:.3f} s, {len(plan.pipelines[0].stages)} stages")


@pytest.mark.parametrize("tied_bytes", [0, 7 * MIB])
def test_what_a_range_needs_is_what_a_machine_will_count(tied_bytes):
    model = replace(shape(4), tied_bytes=tied_bytes)
    need = Tables(model, [node("a")], pool(node("a")), OPTIONS).need(10)[0]
    for first, last in combinations(range(model.num_layers + 1), 2):
        assert need[first, last] == stage_bytes(model, first, last, 10 * OPTIONS.page_size, OPTIONS.workspace)
