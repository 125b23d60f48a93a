from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.cost.pace import Constants
from muster.errors import DoesNotFit, InvalidRequest
from muster.sim.serve.arrivals import trace
from muster.sim.serve.forecast import serve_forecast
from muster.sim.serve.ring import BatchRules
from muster.sim.serve.simulate import simulate_serving
from muster.spec.faults import CutLink, Join, Leave, Slow
from muster.spec.plan import Stage
from muster.spec.workload import ServeWorkload
from tests.examples import examples
from tests.sim.rings import node, pipeline, plan, pool, shape

OFFLINE = ServeWorkload(prompt_tokens=64, output_tokens=32)
FLEET = pool(*map(node, "abcdef"))

FAULTS = st.lists(
    st.one_of(
        st.builds(Leave, st.sampled_from("abcde"), st.floats(0, 8)),
        st.builds(Join, st.sampled_from("abcde"), st.floats(0, 20)),
        st.builds(Slow, st.sampled_from("abcde"), st.floats(0, 8), st.floats(0.1, 2)),
        st.builds(lambda a, at, long: CutLink(a, "b" if a != "b" else "c", at, at + long), st.sampled_from("abcd"),
                  st.floats(0, 8), st.floats(0.01, 6)),
    ),
    max_size=5,
)  # fmt: skip


COLD = Constants(step_s=1e-3, cold_s=4e-3, cools_s=0.01)


def test_a_stage_without_a_pause_is_faster_than_one_that_waits_for_its_next_step():
    alone = replace(OFFLINE, requests_per_s=1e-6)
    one_by_one = simulate_serving(plan(pipeline("ab")), FLEET, shape(), alone, constants=COLD, num_requests=2)
    crowd = plan(pipeline("ab", microbatches=64))
    together = simulate_serving(crowd, FLEET, shape(), OFFLINE, constants=COLD, num_requests=64)
    never = [
        simulate_serving(plan_, FLEET, shape(), workload, constants=replace(COLD, cold_s=0.0), num_requests=count)
        for plan_, workload, count in ((plan(pipeline("ab")), alone, 2), (crowd, OFFLINE, 64))
    ]
    # 20 ms of latency between two steps of a request alone: 1 - e^-2 of the cold is due, and a little more.
    for stage in (0, 1):
        due_s = one_by_one.stages[stage].seconds - never[0].stages[stage].seconds
        assert 0.86 * 4e-3 < due_s < 0.95 * 4e-3
        assert together.stages[stage].seconds - never[1].stages[stage].seconds < 0.15 * 4e-3


def test_where_no_standby_holds_the_lost_layers_the_rest_goes_on_as_somebody_plans():
    lost, asked = plan(pipeline("abc")), []

    def anew(broken, machines):
        asked.append((broken.nodes(), tuple(node.id for node in machines.nodes)))
        return pipeline("ca")

    calm, left = (simulate_serving(lost, FLEET, shape(), OFFLINE, faults=faults, num_requests=40, plan_anew=anew)
                  for faults in ((), [Leave("b", 1.0)]))  # fmt: skip
    assert asked == [(("a", "b", "c"), ("a", "c"))]
    assert left.finished == calm.finished == 40
    assert left.duration_s > calm.duration_s + 10
    assert {stage.node for stage in left.stages} == set("abc")
    silent = simulate_serving(lost, FLEET, shape(), OFFLINE, faults=[Leave("b", 1.0)], num_requests=40)
    assert silent.unfinished == 40


def test_requests_do_not_stay_where_they_are_answered_last():
    """Two fast machines and a slow one: a fast one leaves for good, or for a while, and its requests move."""
    fleet = pool(node("a"), node("b"), node("c", speed=0.005))
    three, one = plan(pipeline("a"), pipeline("c")), plan(pipeline("a"))

    def run(what, *faults):
        return simulate_serving(what, fleet, shape(), OFFLINE, faults=faults, num_requests=300)

    calm = run(one)
    # The slow machine is alone for a while, and has begun all requests that it can hold when the fast one is back.
    away = run(three, Leave("a", 0.3 * calm.duration_s), Join("a", 0.4 * calm.duration_s))
    assert away.finished == 300
    assert away.duration_s < 2.5 * calm.duration_s + 30
    # A slow machine beside a fast one does not hold up the end.
    assert run(three).duration_s < 1.2 * calm.duration_s


def test_who_comes_back_gets_its_place_in_the_plan_again():
    run = simulate_serving(
        plan(pipeline("ab")),
        FLEET,
        shape(),
        replace(OFFLINE, requests_per_s=4.0),
        faults=[Leave("b", 1.0), Join("b", 20.0)],
        num_requests=200,
        plan_anew=lambda broken, machines: pipeline("a", pages=200),
        timeline=True,
    )
    assert run.finished == 200
    gone, back = ({s.lane for s in run.spans if a < s.start_s < b} for a, b in ((12, 19), (31, 40)))
    assert len(gone) == 1 < len(back)


def test_a_plan_without_room_for_the_longest_request_is_none():
    run = simulate_serving(
        plan(pipeline("ab")),
        FLEET,
        shape(),
        OFFLINE,
        faults=[Leave("b", 0.5)],
        num_requests=10,
        plan_anew=lambda broken, machines: pipeline("c", pages=5),
    )
    assert {stage.node for stage in run.stages} == set("ab")


def test_a_machine_that_the_new_plan_leaves_out_is_a_standby():
    run = simulate_serving(
        plan(pipeline("abc"), pipeline("de")),
        FLEET,
        shape(),
        replace(OFFLINE, requests_per_s=2.0),
        faults=[Leave("b", 1.0), Leave("e", 30.0)],
        num_requests=150,
        plan_anew=lambda broken, machines: pipeline("c") if "c" in broken.nodes() else None,
    )
    assert [stage.node for stage in run.stages if stage.pipeline == 1] == ["d", "e", "a"]
    assert run.finished == 150


def check_run(run, capacity_pages: list[int]) -> None:
    """What holds whatever happens."""
    for request in run.requests:
        if request.end_s < inf:
            assert request.arrival_s < request.first_token_s <= request.end_s
    assert run.finished == sum(request.end_s < inf for request in run.requests)
    assert all(peak <= pages for peak, pages in zip(run.peak_pages, capacity_pages, strict=True))
    assert all(0 <= stage.share <= 1 + 1e-9 for stage in run.stages)
    lanes = defaultdict(list)
    for span in run.spans:
        assert span.start_s <= span.end_s
        lanes[span.lane].append((span.start_s, span.end_s))
    for spans in lanes.values():
        assert all(before[1] <= after[0] + 1e-9 for before, after in pairwise(sorted(spans)))
    for link in run.links:
        assert link.bytes_per_s <= FLEET.link(link.source, link.target).bandwidth_bytes_per_s * (1 + 1e-9)


@given(
    st.integers(1, 40),
    st.integers(9, 60),
    st.integers(1, 6),
    st.sampled_from([None, 3.0, 30.0]),
    FAULTS,
    st.booleans(),
    st.integers(0, 5),
)
@examples(40)
def test_whatever_happens_nothing_is_lost_doubled_or_done_twice_at_once(
    count, pages, in_flight, rate, faults, shared, seed
):
    """`shared`: both pipelines send over the same wire."""
    second = replace(
        pipeline("cd"),
        stages=(Stage("a", 0, 8, (1,)), Stage("b", 8, 16, (1,))) if shared else pipeline("cd").stages,
    )
    both = [p.with_work(num_pages=pages, num_microbatches=in_flight) for p in (pipeline("ab"), second)]
    fleet = pool(*(node(name, devices=2) for name in "abcdef")) if shared else FLEET
    workload = replace(OFFLINE, requests_per_s=rate)
    run = simulate_serving(
        plan(*both, standbys=("e", "f")),
        fleet,
        shape(),
        workload,
        faults=faults,
        num_requests=count,
        timeline=True,
        repair_s=1.0,
        seed=seed,
        spread=0.5,
    )
    check_run(run, [pages, pages])
    tokens = run.tokens_per_s * run.duration_s
    assert tokens == pytest.approx(sum(r.output_tokens for r in run.requests if r.end_s < inf), abs=1e-6 * tokens) or (
        run.unfinished
    )
    gone = {fault.node for fault in faults if isinstance(fault, Leave)}
    if not gone:
        assert run.unfinished == 0


def test_the_same_seed_gives_the_same_run():
    both = plan(pipeline("ab"), pipeline("cd"))
    workload = replace(OFFLINE, requests_per_s=20.0)
    one, same, other = (
        simulate_serving(both, FLEET, shape(), workload, num_requests=50, seed=seed, timeline=True)
        for seed in (1, 1, 2)
    )
    assert one == same
    assert one.requests != other.requests


@pytest.mark.parametrize(
    ("names", "options", "workload"),
    [
        ("a", {"pages": 8000, "batch": 256}, ServeWorkload(256, 64)),
        ("abcd", {"microbatches": 4, "batch": 8, "pages": 40_000}, ServeWorkload(256, 64)),
        ("abcd", {"microbatches": 16, "batch": 8, "pages": 40_000}, ServeWorkload(256, 64)),
        ("ab", {"microbatches": 4, "pages": 1500}, ServeWorkload(128, 64)),
        ("ab", {"microbatches": 4, "pages": 8000}, ServeWorkload(1500, 32)),
        ("abc", {"microbatches": 6, "batch": 4, "pages": 8000, "cuts": [2, 6]}, ServeWorkload(64, 100)),
    ],
)
def test_a_full_ring_does_what_the_closed_form_says(names, options, workload):
    ring = plan(pipeline(list(names), **options))
    fleet = pool(*map(node, names), bandwidth=1e9)
    forecast = serve_forecast(ring, fleet, shape(), workload)
    run = simulate_serving(ring, fleet, shape(), workload)
    assert run.steady_tokens_per_s == pytest.approx(forecast.capacity_tokens_per_s, rel=0.08)
    assert run.seconds_per_token == pytest.approx(forecast.seconds_per_token, rel=0.1)
    assert max(s.share for s in run.stages) == pytest.approx(max(s.share for s in forecast.stages), abs=0.08)


@pytest.mark.parametrize("load", [0.05, 0.3, 0.7])
def test_a_ring_under_a_rate_does_what_littles_law_says(load):
    ring = plan(pipeline("abcd", microbatches=12, batch=8, pages=40_000))
    fleet = pool(*map(node, "abcd"), bandwidth=1e9)
    rate = load * serve_forecast(ring, fleet, shape(), OFFLINE).capacity_tokens_per_s / 32
    workload = replace(OFFLINE, requests_per_s=rate, deadline_s=2.0)
    forecast = serve_forecast(ring, fleet, shape(), workload)
    run = simulate_serving(ring, fleet, shape(), workload, num_requests=600)
    assert run.steady_tokens_per_s == pytest.approx(forecast.tokens_per_s, rel=0.12)
    assert run.request_s == pytest.approx(forecast.request_s, rel=0.06)
    assert run.time_to_first_token_s == pytest.approx(forecast.time_to_first_token_s, rel=0.25)
    assert run.attainment == pytest.approx(forecast.attainment, abs=0.1)


def test_a_plan_may_say_how_much_of_a_prompt_a_step_takes():
    ring = pipeline("abcd", microbatches=4, batch=8, pages=40_000)
    workload = replace(OFFLINE, requests_per_s=2.0)
    said = simulate_serving(plan(ring.with_work(prefill_tokens=16)), FLEET, shape(), workload)
    told = simulate_serving(plan(ring), FLEET, shape(), workload, rules=BatchRules(prefill_tokens=16))
    assert said == told
    assert said != simulate_serving(plan(ring), FLEET, shape(), workload)


def test_deserve_in_events_is_as_flat_in_latency_as_in_closed_form():
    names = [f"l4-{i}" for i in range(8)]
    for latency_s, expected in ((0.0, 446), (0.064, 446), (0.256, 442)):
        ring = plan(pipeline(names, 80, pages=60_000, page_size=8, microbatches=20, batch=75))
        fleet = pool(*map(node, names), latency_s=latency_s, bandwidth=1e12)
        measured = dict.fromkeys(names, 0.168)
        run = simulate_serving(
            ring,
            fleet,
            shape(80),
            ServeWorkload(64, 64),
            stage_seconds=measured,
            num_requests=4500,
            rules=BatchRules(prefill_tokens=4096),
        )
        assert run.steady_tokens_per_s == pytest.approx(expected, rel=0.02)


def test_the_faster_pipeline_gets_more_requests():
    fleet = pool(node("a", 3.0), node("b", 3.0), node("c"), node("d"), latency_s=0.0)
    both = plan(pipeline("ab", batch=4), pipeline("cd", batch=4))
    run = simulate_serving(both, fleet, shape(), OFFLINE, num_requests=400)
    shares = {stage.node: stage.share for stage in run.stages}
    assert shares["a"] == pytest.approx(shares["c"], rel=0.15)


def test_requests_of_a_lost_machine_go_on_elsewhere_and_a_standby_steps_in():
    both = plan(pipeline("ab"), pipeline("cd"), standbys=("e",))
    workload = replace(OFFLINE, requests_per_s=40.0)
    calm, run = (
        simulate_serving(both, FLEET, shape(), workload, num_requests=300, faults=faults, repair_s=1.0)
        for faults in ((), (Leave("b", 2.0),))
    )
    assert calm.resubmissions == 0
    assert run.finished == 300
    assert run.resubmissions > 0
    assert run.request_s > calm.request_s
    assert [stage.node for stage in run.stages] == ["a", "b", "e", "c", "d"]
    assert all(stage.share > 0 for stage in run.stages)
    alone = simulate_serving(
        plan(pipeline("ab")), FLEET, shape(), OFFLINE, num_requests=300,
        faults=[Leave("b", 0.2), Join("b", 5.0), Slow("a", 0.0, 0.1)],
    )  # fmt: skip
    check_run(alone, [4096])


def test_without_a_standby_nobody_answers_until_the_machine_is_back():
    one = plan(pipeline("ab"))
    forever = simulate_serving(one, FLEET, shape(), OFFLINE, num_requests=20, faults=[Leave("a", 0.05)])
    assert forever.finished == 0
    assert forever.unfinished == 20
    back = simulate_serving(
        one, FLEET, shape(), OFFLINE, num_requests=20, faults=[Leave("a", 0.05), Join("a", 3.0)], repair_s=2.0
    )
    assert back.finished == 20
    assert min(request.first_token_s for request in back.requests) > 5.0


def test_a_standby_too_small_for_the_layers_is_of_no_use():
    fleet = pool(node("a"), node("b"), node("e", memory_gib=0.1))
    run = simulate_serving(
        plan(pipeline("ab"), standbys=("e",)), fleet, shape(), OFFLINE, num_requests=5, faults=[Leave("a", 0.0)]
    )
    assert run.finished == 0


def test_a_straggler_slows_its_ring():
    ring = plan(pipeline("ab", microbatches=2))
    fleet = pool(*map(node, "ab"), latency_s=0.0)
    calm = simulate_serving(ring, fleet, shape(), OFFLINE, num_requests=100)
    slow = simulate_serving(ring, fleet, shape(), OFFLINE, num_requests=100, faults=[Slow("b", 0.0, 0.25)])
    assert 2.2 < slow.duration_s / calm.duration_s < 4


def test_a_short_cut_is_waited_for_and_a_long_one_costs_the_machine():
    ring = plan(pipeline("ab"), standbys=("e",))
    cut = [CutLink("a", "b", 0.1, 2.0)]
    short = simulate_serving(ring, FLEET, shape(), OFFLINE, num_requests=20, faults=cut)
    assert short.resubmissions == 0
    assert short.finished == 20
    assert short.duration_s > 2.0
    long = simulate_serving(ring, FLEET, shape(), OFFLINE, num_requests=20, faults=cut, repair_s=0.5)
    assert long.resubmissions == 20
    assert {stage.node for stage in long.stages} == {"a", "b", "e"}
    assert long.duration_s < short.duration_s


def test_swap_lets_more_requests_in_and_says_how_much_it_moves():
    fleet = pool(*map(node, "ab"), latency_s=0.3)
    plain = plan(pipeline("ab", pages=200, microbatches=16, batch=16))
    swapping = plan(pipeline("ab", pages=200, microbatches=16, batch=16, swap_pages=80))
    before, after = (simulate_serving(p, fleet, shape(), OFFLINE, num_requests=300) for p in (plain, swapping))
    assert before.swapped_pages == 0 < after.swapped_pages
    assert after.steady_tokens_per_s > 2 * before.steady_tokens_per_s
    assert 200 < after.peak_pages[0] <= 200 - 160 + 16 * 80


def test_a_trace_is_played_as_recorded():
    run = simulate_serving(plan(pipeline("ab")), FLEET, shape(), OFFLINE, arrivals=trace([(1.0, 10, 3), (0.0, 600, 2)]))
    assert [(r.arrival_s, r.output_tokens) for r in run.requests] == [(0.0, 2), (1.0, 3)]
    assert run.finished == 2


def test_spans_show_what_each_stage_and_wire_did():
    run = simulate_serving(plan(pipeline("ab")), FLEET, shape(), OFFLINE, num_requests=3, timeline=True)
    assert {span.lane for span in run.spans} == {"a", "b", "a -> b", "b -> a"}
    assert {span.kind for span in run.spans} == {"prefill", "decode", "send"}
    busy = sum(span.end_s - span.start_s for span in run.spans if span.lane == "a")
    assert busy / run.duration_s == pytest.approx(run.stages[0].share, rel=1e-6)


def test_quantiles_are_of_those_who_were_answered():
    run = simulate_serving(
        plan(pipeline("ab")), FLEET, shape(), replace(OFFLINE, requests_per_s=5.0, deadline_s=1e-3), num_requests=50
    )
    assert run.first_token_quantile(0.5) < run.first_token_quantile(0.99) < run.request_quantile(0.99)
    assert run.attainment == 0


def test_what_does_not_fit_is_refused():
    with pytest.raises(DoesNotFit, match="needs 6 pages"):
        simulate_serving(plan(pipeline("ab", pages=5)), FLEET, shape(), OFFLINE)
    with pytest.raises(InvalidRequest, match="no pipeline"):
        simulate_serving(plan(), FLEET, shape(), OFFLINE)


def test_requests_that_fled_to_a_slow_pipeline_come_back_to_the_mended_one():
    fleet = pool(node("a", speed=3.0), node("b", speed=3.0), node("c", speed=3.0), node("slow", speed=0.01))
    both = plan(pipeline("ab"), pipeline(["slow"]))

    def run(served, *faults):
        anew = {"plan_anew": lambda broken, machines: pipeline("ac") if "b" in broken.nodes() else None}
        return simulate_serving(served, fleet, shape(), OFFLINE, faults=faults, num_requests=200, **anew)

    alone, together = run(plan(pipeline("ab")), Leave("b", 1.0)), run(both, Leave("b", 1.0))
    assert together.finished == alone.finished == 200
    assert together.duration_s < 2 * alone.duration_s
