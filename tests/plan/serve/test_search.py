"""The search for a serving plan: what every plan satisfies, and what it does with particular fleets."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.cost.memory import stage_bytes
from muster.cost.named_shapes import named_shape
from muster.errors import DoesNotFit, InvalidRequest
from muster.plan.found import LOOSE
from muster.plan.serve.options import Pin, ServeOptions
from muster.plan.serve.search import plan_serving
from muster.sim.serve.forecast import serve_forecast
from muster.sim.serve.simulate import simulate_serving
from muster.spec.fleets import shipped_fleet
from muster.spec.pool import LinkSpeed
from muster.spec.pool_file import parse_pool
from muster.spec.workload import ServeWorkload
from tests.examples import examples
from tests.plan.fleets import pool, shape
from tests.plan.serve.checks import check_plan
from tests.plan.serve.fleets import FAR, QUICK, WORK, fleets, machine

objectives = st.sampled_from(["throughput", "cost", "latency", "slo"])


@examples(15)
@given(fleet=fleets(), layers=st.integers(1, 9), objective=objectives, symmetric=st.booleans(), seed=st.integers(0, 3))
def test_any_plan_is_sound_does_not_beat_its_bound_and_comes_again_from_the_same_seed(
    fleet, layers, objective, symmetric, seed
):
    model = shape(layers)
    options = replace(QUICK, objective=objective, symmetric=symmetric)
    work = replace(WORK, requests_per_s=0.1, deadline_s=300.0) if objective == "slo" else WORK
    try:
        found = plan_serving(model, fleet, work, options, seed=seed)
    except (DoesNotFit, InvalidRequest):
        return  # too little memory, or too slow for the deadline
    check_plan(found.plan, model, fleet)
    for other in found.alternatives:
        check_plan(other.plan, model, fleet)
    if objective == "latency":
        assert found.score >= found.bound * (1 - 1e-9)
    else:
        assert found.score <= found.bound * (1 + 1e-9)
    assert found.gap >= 0
    assert plan_serving(model, fleet, work, options, seed=seed) == found


def test_what_fits_on_one_machine_is_not_split_but_served_twice():
    fleet = pool(machine("a", 4000), machine("b", 4000))
    found = plan_serving(shape(), fleet, WORK, QUICK)
    assert [len(pipeline.stages) for pipeline in found.plan.pipelines] == [1, 1]
    alone = plan_serving(shape(), fleet, WORK, replace(QUICK, max_replicas=1))
    assert [len(pipeline.stages) for pipeline in alone.plan.pipelines] in ([1], [2])
    far = pool(machine("a", 4000), machine("b", 4000), links={("a", "b"): FAR, ("b", "a"): FAR})
    quick = plan_serving(shape(), far, WORK, replace(QUICK, objective="latency"))
    assert all(len(pipeline.stages) == 1 for pipeline in quick.plan.pipelines)


def test_a_machine_that_hurts_stays_idle():
    fleet = pool(machine("a", 600), machine("b", 600), machine("crawler", 600, speed=0.003))
    found = plan_serving(shape(), fleet, WORK, QUICK)
    assert found.plan.standbys == ("crawler",)
    without = plan_serving(shape(), replace(fleet, nodes=fleet.nodes[:2]), WORK, QUICK)
    assert found.score == pytest.approx(without.score)
    # The evolving search, which larger fleets get, drops it as well.
    evolved = plan_serving(shape(), fleet, WORK, replace(QUICK, exhaustive=False))
    assert evolved.plan.standbys == ("crawler",)


def test_devices_of_one_machine_share_a_stage_where_that_answers_sooner():
    fleet = pool(machine("a", 4000, devices=2))
    found = plan_serving(shape(), fleet, WORK, replace(QUICK, objective="latency"))
    assert found.plan.pipelines[0].stages[0].devices == (0, 1)
    single = plan_serving(shape(), fleet, WORK, replace(QUICK, objective="latency", max_tensor_parallel=1))
    assert all(len(stage.devices) == 1 for stage in single.plan.pipelines[0].stages)
    assert single.score > found.score


def test_unequal_devices_get_unequal_layers_and_a_symmetric_plan_is_slower():
    fleet = pool(machine("big", 900, speed=2.0), machine("small", 500, speed=1.0))
    free = plan_serving(shape(9), fleet, WORK, QUICK)
    level = plan_serving(shape(8), fleet, WORK, replace(QUICK, symmetric=True))
    (pipeline,) = level.plan.pipelines
    assert {stage.num_layers for stage in pipeline.stages} == {4}
    layers = {stage.node: stage.num_layers for stage in free.plan.pipelines[0].stages}
    assert layers["big"] > layers["small"]
    assert plan_serving(shape(8), fleet, WORK, QUICK).score > level.score


def test_a_pinned_machine_takes_exactly_its_layers():
    fleet = pool(machine("a", 700), machine("b", 700), machine("c", 700))
    for name, first, last in (("b", 2, 5), ("c", 0, 3), ("a", 5, 8)):
        options = replace(QUICK, pins=(Pin(name, first, last),))
        for exhaustive in (True, False):
            found = plan_serving(shape(), fleet, WORK, replace(options, exhaustive=exhaustive))
            check_plan(found.plan, shape(), fleet)
            taken = [stage for one in found.plan.pipelines for stage in one.stages if stage.node == name]
            assert (taken[0].first, taken[-1].last) == (first, last)


@pytest.mark.parametrize(
    ("pins", "message"),
    [
        ((Pin("nobody", 0, 2),), r"'nobody', which is no machine"),
        ((Pin("a", 3, 3),), r"a=3-3 is no range of the model's 8 layers"),
        ((Pin("a", 0, 9),), r"no range"),
        ((Pin("a", 0, 2), Pin("a", 2, 4)), r"pinned twice"),
        ((Pin("a", 0, 8),), r"Layers 0 to 8 need .* too little; pin fewer"),
        ((Pin("a", 0, 5), Pin("b", 4, 8)), r"not with these pins"),
    ],
)
def test_pins_that_cannot_be_are_refused_with_the_reason(pins, message):
    fleet = pool(machine("a", 700), machine("b", 700))
    with pytest.raises(InvalidRequest, match=message):
        plan_serving(shape(), fleet, WORK, replace(QUICK, pins=pins))


def test_a_model_that_does_not_fit_says_by_how_much_and_fits_with_what_is_asked_for():
    fleet = pool(machine("a", 300), machine("b", 300))
    with pytest.raises(DoesNotFit, match=r"too little; add (\d+) more device") as error:
        plan_serving(shape(), fleet, WORK, QUICK)
    more = int(re.search(r"add (\d+) more", str(error.value))[1])
    richer = pool(*fleet.nodes, *(machine(f"n{i}", 300) for i in range(more + 1)))  # layers do not divide
    check_plan(plan_serving(shape(), richer, WORK, QUICK).plan, shape(), richer)
    with pytest.raises(DoesNotFit, match="no machine"):
        plan_serving(shape(), pool(), WORK, QUICK)


def test_a_deadline_that_nobody_can_meet_names_the_best_possible():
    fleet = pool(machine("a", 4000))
    work = replace(WORK, requests_per_s=0.01, deadline_s=0.01)
    with pytest.raises(InvalidRequest, match=r"best possible is ([\d.]+) s") as error:
        plan_serving(shape(), fleet, work, replace(QUICK, objective="slo"))
    best_s = float(re.search(r"possible is ([\d.]+) s", str(error.value))[1])
    work = replace(work, deadline_s=best_s * 1.3)
    assert plan_serving(shape(), fleet, work, replace(QUICK, objective="slo")).score > 0.9


def test_money_buys_the_best_ratio_and_a_budget_is_kept():
    fleet = pool(machine("dear", 4000, speed=2.0, price=8.0), machine("cheap", 4000, price=1.0))
    cheap = plan_serving(shape(), fleet, WORK, replace(QUICK, objective="cost"))
    assert cheap.plan.standbys == ("dear",)
    assert plan_serving(shape(), fleet, WORK, replace(QUICK, budget_per_hour=8.5)).plan.standbys == ("cheap",)
    assert plan_serving(shape(), fleet, WORK, replace(QUICK, budget_per_hour=9.0)).plan.standbys == ()
    with pytest.raises(InvalidRequest, match=r"\$0.5 an hour; the cheapest found costs \$1.00"):
        plan_serving(shape(), fleet, WORK, replace(QUICK, budget_per_hour=0.5))
    fast = pool(machine("dear", 4000, speed=20.0, price=2.0), machine("cheap", 4000, price=1.0))
    assert plan_serving(shape(), fast, WORK, replace(QUICK, objective="cost")).plan.standbys == ("cheap",)
    with pytest.raises(InvalidRequest, match=r"cheapest found costs \$1.00"):
        plan_serving(shape(), fast, WORK, replace(QUICK, budget_per_hour=0.5))
    free = pool(machine("gift", 4000, price=None))
    with pytest.raises(InvalidRequest, match="gift has no price"):
        plan_serving(shape(), free, WORK, replace(QUICK, objective="cost"))


def test_a_machine_without_a_price_stands_by_where_money_matters():
    fleet = pool(machine("cheap", 4000, price=1.0), machine("gift", 4000, price=None))
    found = plan_serving(shape(), fleet, WORK, replace(QUICK, objective="cost"))
    assert found.plan.standbys == ("gift",)
    assert "gift stands by" in found.plan.explanation
    assert plan_serving(shape(), fleet, WORK, QUICK).plan.standbys == ()
    too_small = pool(machine("cheap", 40, price=1.0), machine("gift", 4000, price=None))
    with pytest.raises(InvalidRequest, match="gift has no price"):
        plan_serving(shape(), too_small, WORK, replace(QUICK, objective="cost"))


@pytest.mark.parametrize("requests", [1, 2, 3, 5, 9])
def test_a_pin_is_kept_wherever_one_request_fits_beside_it(requests):
    """However little room the pinned machine has left for a batch."""
    tokens = requests * (WORK.prompt_tokens + WORK.output_tokens)
    need = stage_bytes(shape(8), 0, 2, tokens, QUICK.workspace, 1)
    fleet = pool(machine("large", 20000.0), machine("small", (need + 1) / 2**20))
    found = plan_serving(shape(8), fleet, WORK, replace(QUICK, pins=(Pin("small", 0, 2),)))
    (stage,) = [stage for stage in found.plan.only_pipeline.stages if stage.node == "small"]
    assert (stage.first, stage.last) == (0, 2)


def test_a_hopeless_rate_is_refused_at_once_with_the_rate_that_the_pool_bears():
    fleet = pool(machine("a"), machine("b"))
    hopeless = replace(WORK, requests_per_s=1e5, deadline_s=60.0)
    with pytest.raises(InvalidRequest, match="bears") as refused:
        plan_serving(shape(4), fleet, hopeless, replace(QUICK, objective="slo"))
    bears = float(re.search(r"bears ([\d.e+]+) a second", str(refused.value))[1])
    offline = plan_serving(shape(4), fleet, WORK, QUICK)
    assert bears == pytest.approx(offline.score / WORK.output_tokens, rel=0.01)


@pytest.mark.parametrize("budget", [1e-3, 0.5, 1.9])
def test_a_budget_that_buys_too_little_memory_is_refused_without_a_search(budget):
    fleet = pool(*(machine(f"n{i}", 300.0) for i in range(8)))

    def never() -> bool:
        raise AssertionError("a search for what cannot be had")

    options = replace(QUICK, budget_per_hour=budget)
    with pytest.raises(InvalidRequest, match=r"the cheapest found costs \$[3-5]\.00"):
        plan_serving(shape(6), fleet, WORK, options, out_of_time=never)


@pytest.mark.parametrize("latency_s", [1e-4, 1.0])
def test_a_bound_that_says_nothing_is_not_told(latency_s):
    machines = [machine(f"n{i}", 500.0) for i in range(3)]
    links = {(a.id, b.id): LinkSpeed(latency_s, 1e9) for a in machines for b in machines if a is not b}
    found = plan_serving(shape(8), pool(*machines, links=links), WORK, replace(QUICK, objective="latency"))
    assert ("no plan does better" in found.plan.explanation) == (found.gap <= LOOSE) == (latency_s < 1)


def test_deserves_ring_gets_enough_steps_in_flight_and_swap_from_the_planner():
    far = replace(shipped_fleet("deserve-8xl4"), links={})
    options = ServeOptions(max_batch=75, page_size=8, max_replicas=1)
    found = [
        plan_serving(
            named_shape("llama-3-70b"),
            replace(far, default_link=LinkSpeed(latency_s, 1.25e9)),
            ServeWorkload(128, 166),
            options,
        )
        for latency_s in (0.0, 0.064, 0.256)
    ]
    pipelines = [one.plan.pipelines[0] for one in found]
    assert [pipeline.serve.batch for pipeline in pipelines] == [75, 75, 75]
    assert [pipeline.serve.swap_pages > 0 for pipeline in pipelines] == [True, True, True]
    stages, step_s = len(pipelines[0].stages), found[0].plan.step_seconds
    for pipeline, latency_s in zip(pipelines, (0.0, 0.064, 0.256), strict=True):
        # N >= S (1 + L / T), and not much above it
        assert pipeline.serve.num_microbatches == pytest.approx(stages * (1 + latency_s / step_s), abs=1.5)
    assert found[2].score == pytest.approx(found[0].score, rel=0.01)


@pytest.mark.chaos
def test_the_58_gpus_of_hexgen_all_serve_and_come_near_the_bound():
    fleet, model = shipped_fleet("hexgen-58"), named_shape("llama-2-70b")
    found = plan_serving(model, fleet, ServeWorkload(), ServeOptions(evaluations=60))
    check_plan(found.plan, model, fleet)
    assert found.plan.standbys == ()
    assert found.gap < 0.1


def test_a_broken_link_is_not_used():
    down = LinkSpeed(0.01, 0.0)
    two = pool(machine("a", 600), machine("b", 600), links={("a", "b"): down, ("b", "a"): down})
    with pytest.raises(DoesNotFit, match="or with links that are down"):
        plan_serving(shape(), two, WORK, QUICK)
    three = pool(*two.nodes, machine("c", 600, speed=0.2), links=dict(two.links))
    for exhaustive in (True, False):
        found = plan_serving(shape(), three, WORK, replace(QUICK, exhaustive=exhaustive))
        order = found.plan.pipelines[0].nodes()
        ring = set(zip(order, (*order[1:], order[0]), strict=True))
        assert not ring & {("a", "b"), ("b", "a")}


def test_the_objective_slo_asks_for_a_rate_and_a_deadline():
    with pytest.raises(InvalidRequest, match="how many come a second and by when"):
        plan_serving(shape(), pool(machine("a", 4000)), WORK, replace(QUICK, objective="slo"))


def plan_in_time(fleet, model, rate, deadline_s, **options):
    work = ServeWorkload(128, 64, requests_per_s=rate, deadline_s=deadline_s)
    return plan_serving(model, fleet, work, ServeOptions(objective="slo", evaluations=60, **options))


def hexgens_example():
    machines = "".join(
        f'[[machine]]\nname = "{name}"\ndevice = "{name}"\ndevices = {count}\n'
        for name, count in (("a6000", 4), ("a5000", 2), ("a4000", 2))
    )
    return parse_pool(machines + "[elsewhere]\nlatency_s = 0.001\nbandwidth_bytes_per_s = 1250000000\n")


@pytest.mark.chaos
def test_unequal_stages_keep_a_deadline_at_a_rate_at_which_equal_ones_do_not():
    fleet, model = hexgens_example(), named_shape("llama-2-70b")
    found = plan_in_time(fleet, model, 12.0, 23.2)
    assert found.score > 0.99
    assert plan_in_time(fleet, model, 12.0, 23.2, symmetric=True).score < 0.9
    # In a simulation of its own, with other requests.
    work = ServeWorkload(128, 64, requests_per_s=12.0, deadline_s=23.2)
    assert simulate_serving(found.plan, fleet, model, work, num_requests=2000, seed=7).attainment > 0.99
    # A deep ring keeps it only if no step has too much of a prompt in it.
    lumps = replace(found.plan, pipelines=tuple(one.with_work(prefill_tokens=512) for one in found.plan.pipelines))
    assert simulate_serving(lumps, fleet, model, work, num_requests=2000, seed=7).attainment < 0.5


@pytest.mark.chaos
def test_a_longer_deadline_and_a_lower_rate_are_never_harder_to_keep():
    fleet = pool(machine("big", 900, speed=2.0), machine("small", 500), machine("other", 500))
    options = replace(QUICK, objective="slo")

    def share(rate, deadline_s):
        work = replace(WORK, requests_per_s=rate, deadline_s=deadline_s)
        return plan_serving(shape(), fleet, work, options).score

    sooner, later, fewer = share(6.0, 4.8), share(6.0, 12.0), share(1.0, 4.8)
    assert sooner < 0.5
    assert later > 0.99
    assert fewer > 0.99


def test_machines_that_a_deadline_does_not_need_stand_by():
    fleet = pool(*(machine(name, 4000) for name in "abcd"))
    quiet, busy = (replace(WORK, requests_per_s=rate, deadline_s=60.0) for rate in (0.05, 40.0))
    options = replace(QUICK, objective="slo")
    assert len(plan_serving(shape(), fleet, quiet, options).plan.standbys) == 3
    assert plan_serving(shape(), fleet, busy, options).plan.standbys == ()


def test_the_same_cuts_on_machines_that_are_alike_are_no_alternative():
    fleet = pool(machine("a", 600), machine("b", 600), machine("c", 900, speed=0.5))
    found = plan_serving(shape(), fleet, WORK, QUICK)
    kind = {node.id: node.device.memory_bytes for node in fleet.nodes}
    plans = [found.plan, *(other.plan for other in found.alternatives)]
    cuts = [
        sorted([(kind[s.node], len(s.devices), s.first, s.last) for s in one.stages] for one in plan.pipelines)
        for plan in plans
    ]
    assert len(plans) > 1, "there is something to tell"
    assert all(cut not in cuts[:index] for index, cut in enumerate(cuts))


def test_a_run_too_short_to_fall_behind_in_does_not_deceive():
    fleet = pool(*(machine(name, 4000) for name in "abcd"))
    options = replace(QUICK, objective="slo", evaluations=10)
    rate = 0.7 * plan_serving(shape(), fleet, WORK, QUICK).forecast.capacity_tokens_per_s / WORK.output_tokens
    work = replace(WORK, requests_per_s=rate, deadline_s=5000.0)
    found = plan_serving(shape(), fleet, work, options)
    assert found.forecast.capacity_tokens_per_s > rate * WORK.output_tokens
    assert len(found.plan.pipelines) > 1


def test_slow_machines_with_much_memory_do_not_get_the_layers_for_the_sake_of_a_large_batch() -> None:
    text = "".join(
        f'[[machine]]\nname = "{name}"\ndevice = "{device}"\ndevices = {count}\nregion = "here"\n'
        for name, device, count in (("studio", "m2-ultra", 1), ("lab", "a6000", 2), ("tower", "rtx-4090", 2))
    )
    fleet = parse_pool(text + "[inside]\nlatency_s = 0.0005\nbandwidth_bytes_per_s = 125000000\n")
    model = named_shape("llama-3-70b")
    best = plan_serving(model, fleet, ServeWorkload())
    soon = plan_serving(model, fleet, ServeWorkload(), ServeOptions(objective="latency"))
    again = serve_forecast(soon.plan, fleet, model, ServeWorkload())
    assert best.forecast.capacity_tokens_per_s >= again.capacity_tokens_per_s
    studio = fleet.nodes[0].id
    for pipeline in best.plan.pipelines:
        layers = {stage.node: stage.last - stage.first for stage in pipeline.stages}
        if len(layers) > 1:
            assert layers.get(studio, 0) < 20, "the studio is ten times slower than the others"
    others = {stage.node for one in best.plan.pipelines for stage in one.stages} - {studio}
    assert others == {node.id for node in fleet.nodes[1:]}
