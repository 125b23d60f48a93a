from collections import defaultdict
from dataclasses import replace
from itertools import pairwise
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.cost.pace import TYPICAL
from muster.errors import InvalidRequest
from muster.sim.train.forecast import in_flight, train_forecast
from muster.sim.train.pipeline_costs import costs_of
from muster.sim.train.schedules import order
from muster.sim.train.simulate import simulate_training
from muster.spec.faults import CutLink, Join, Leave, Slow
from muster.spec.plan import Plan
from muster.spec.pool import LinkSpeed
from muster.spec.workload import TrainWorkload
from tests.examples import examples
from tests.sim.rings import node, pipeline, pool, shape, trained

WORK = TrainWorkload(length=512, microbatch=1)
FREE = {"latency_s": 0.0, "bandwidth": 1e18}
SCHEDULES = ("gpipe", "1f1b", "interleaved")


def train_plan(*rows: str, microbatches: int = 8, standbys: str = "", **options) -> Plan:
    pipelines = (pipeline(list(names), microbatches=microbatches, **options) for names in rows)
    return trained(*pipelines, standbys=tuple(standbys))


@given(st.integers(1, 6), st.integers(1, 20), st.floats(0.01, 10), st.sampled_from(["gpipe", "1f1b"]))
@examples(50)
def test_equal_stages_and_free_links_take_what_the_textbook_says(count, microbatches, seconds, schedule):
    names = "abcdef"[:count]
    run = simulate_training(
        train_plan(names, microbatches=microbatches),
        pool(*map(node, names), **FREE),
        shape(),
        replace(WORK, schedule=schedule),
        stage_seconds=dict.fromkeys(names, seconds),
    )
    assert run.pipeline_s == pytest.approx((count - 1 + microbatches) * seconds)


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("chunks", [1, 2, 4])
def test_interleaving_divides_the_bubble_by_the_number_of_chunks(count, chunks):
    names = "abcd"[:count]
    run = simulate_training(
        train_plan(names, microbatches=4 * count),
        pool(*map(node, names), **FREE),
        shape(),
        replace(WORK, schedule="interleaved"),
        stage_seconds=dict.fromkeys(names, 3.0),
        chunks=chunks,
    )
    assert run.pipeline_s - 4 * count * 3.0 == pytest.approx((count - 1) * 3.0 / chunks)


@given(
    st.lists(st.floats(0.1, 3), min_size=2, max_size=5),
    st.integers(1, 12),
    st.floats(0, 0.5),
    st.floats(1e6, 1e9),
    st.sampled_from(SCHEDULES),
    st.integers(1, 3),
)
@examples(60)
def test_whatever_the_speeds_the_order_holds_and_nothing_is_done_twice_at_once(
    speeds, microbatches, latency_s, bandwidth, schedule, chunks
):
    names = "abcde"[: len(speeds)]
    microbatches *= len(names)
    workload = replace(WORK, schedule=schedule)
    fleet = pool(*(node(name, speed) for name, speed in zip(names, speeds, strict=True)), latency_s=latency_s,
                 bandwidth=bandwidth)  # fmt: skip
    line = train_plan(names, microbatches=microbatches)
    run = simulate_training(line, fleet, shape(), workload, timeline=True, chunks=chunks)
    lanes = defaultdict(list)
    for span in run.spans:
        lanes[span.lane].append((span.start_s, span.end_s, span.kind, span.label))
    for spans in lanes.values():
        assert all(before[1] <= after[0] + 1e-9 for before, after in pairwise(sorted(spans)))
    times = chunks if schedule == "interleaved" else 1
    for name in names:
        kinds = [kind for *_, kind, _ in lanes[name]]
        assert kinds.count("forward") == kinds.count("backward") == times * microbatches
    for link in run.links:
        assert link.share <= 1 + 1e-9
    if schedule != "interleaved":
        for ahead, behind in pairwise(names):
            check_precedence(lanes, ahead, behind, latency_s)
    costs = costs_of(line, fleet, shape(), workload, TYPICAL)[0]
    allowed = [times * in_flight(costs, j, schedule, chunks) + (times > 1) for j in range(len(names))]
    assert all(stage.in_flight <= most for stage, most in zip(run.stages, allowed, strict=True))


def check_precedence(lanes, ahead, behind, latency_s) -> None:
    """A microbatch goes forward at `ahead` before `behind`, and back the other way, with the way between."""
    at = {name: {(kind, label): (start, end) for start, end, kind, label in lanes[name]} for name in (ahead, behind)}
    for (kind, label), (start_s, end_s) in at[ahead].items():
        if kind == "forward":
            assert end_s + latency_s <= at[behind][kind, label][0] + 1e-9
        elif kind == "backward":
            assert at[behind][kind, label][1] + latency_s <= start_s + 1e-9


@given(
    st.lists(st.floats(0.2, 3), min_size=2, max_size=5), st.integers(1, 30), st.floats(0, 0.3),
    st.floats(1e7, 1e9), st.sampled_from(SCHEDULES),
)  # fmt: skip
@examples(60)
def test_the_closed_form_is_near_the_simulation(speeds, microbatches, latency_s, bandwidth, schedule):
    names = "abcde"[: len(speeds)]
    fleet = pool(*(node(name, speed) for name, speed in zip(names, speeds, strict=True)), latency_s=latency_s,
                 bandwidth=bandwidth)  # fmt: skip
    count = microbatches * len(names) if schedule == "interleaved" else microbatches
    line, workload = train_plan(names, microbatches=count), replace(WORK, schedule=schedule)
    forecast, run = (f(line, fleet, shape(), workload) for f in (train_forecast, simulate_training))
    within = {"gpipe": 1e-6, "1f1b": 0.2, "interleaved": 0.01}[schedule]
    assert run.step_s == pytest.approx(forecast.step_s, rel=within)


def test_pipelines_exchange_and_the_first_stage_is_the_last_to_be_done():
    fleet = pool(*map(node, "abcd"))
    both = train_plan("ab", "cd", microbatches=4)
    forecast, run = (
        train_forecast(both, fleet, shape(), WORK),
        simulate_training(both, fleet, shape(), WORK, timeline=True),
    )
    assert run.step_s == pytest.approx(forecast.step_s, rel=0.02)
    assert run.exchange_s == pytest.approx(forecast.exchange_s, rel=0.05)
    starts = {span.lane: span.start_s for span in run.spans if span.kind == "exchange"}
    assert starts["b"] == starts["d"] < starts["a"] == starts["c"] == pytest.approx(run.pipeline_s)


def test_two_pipelines_over_one_wire_share_it():
    one, workload = train_plan("ab", microbatches=20), replace(WORK, schedule="gpipe")
    stages = [replace(stage, devices=(1,)) for stage in one.pipelines[0].stages]
    both = replace(one, pipelines=(*one.pipelines, replace(one.pipelines[0], stages=tuple(stages))))
    fleet = pool(node("a", devices=2), node("b", devices=2), latency_s=0.0, bandwidth=2e6)
    alone, shared = (simulate_training(p, fleet, shape(), workload) for p in (one, both))
    assert shared.pipeline_s == pytest.approx(2 * alone.pipeline_s, rel=0.1)


def test_a_straggler_slows_the_step_from_when_it_starts_to():
    fleet = pool(*map(node, "ab"), **FREE)
    measured = {"a": 1.0, "b": 1.0}
    line = train_plan("ab", microbatches=20)
    calm, slow, late = (
        simulate_training(line, fleet, shape(), WORK, stage_seconds=measured, faults=faults)
        for faults in ((), [Slow("b", 0.0, 0.5)], [Slow("b", 10.0, 0.5)])
    )
    assert slow.pipeline_s == pytest.approx(2 * 20 + 1)
    assert calm.pipeline_s < late.pipeline_s < slow.pipeline_s


def test_a_lost_step_is_done_again_with_a_standby():
    fleet = pool(*map(node, "abe"))
    calm = simulate_training(train_plan("ab", standbys="e"), fleet, shape(), WORK, steps=3)
    at_s = calm.duration_s / 2
    run = simulate_training(
        train_plan("ab", standbys="e"), fleet, shape(), WORK, steps=3, faults=[Leave("b", at_s)], repair_s=5.0
    )
    assert (run.steps, run.lost_steps) == (3, 1)
    assert run.duration_s == pytest.approx(at_s + 5.0 + 2 * calm.step_s, rel=0.01)
    assert [stage.node for stage in run.stages] == ["a", "e"]


def test_without_a_standby_the_other_pipelines_do_all_microbatches_until_the_machine_is_back():
    fleet = pool(*map(node, "abcd"))
    both = train_plan("ab", "cd", microbatches=8)
    calm = simulate_training(both, fleet, shape(), WORK)
    run = simulate_training(both, fleet, shape(), WORK, faults=[Leave("d", calm.step_s / 2)], repair_s=1.0)
    assert [stage.node for stage in run.stages] == ["a", "b"]
    assert run.pipeline_s > 1.5 * calm.pipeline_s
    assert run.exchange_s < calm.exchange_s
    back = simulate_training(
        both, fleet, shape(), WORK, steps=3, repair_s=1.0, faults=[Leave("d", 0.0), Join("d", calm.step_s)]
    )
    assert [stage.node for stage in back.stages] == ["a", "b", "c", "d"]
    assert back.step_s == pytest.approx(calm.step_s)


def test_the_only_pipeline_waits_for_its_machine():
    fleet = pool(*map(node, "ab"))
    never = simulate_training(train_plan("ab"), fleet, shape(), WORK, faults=[Leave("a", 0.0)])
    assert (never.steps, never.lost_steps, never.step_s) == (0, 1, inf)
    back = simulate_training(
        train_plan("ab"), fleet, shape(), WORK, faults=[Leave("a", 0.0), Join("a", 50.0)], repair_s=2.0
    )
    assert back.duration_s == pytest.approx(52.0 + back.step_s)


def test_a_cut_link_is_waited_for_or_worked_around():
    fleet = pool(*map(node, "abe"))
    line = train_plan("ab", standbys="e")
    short = simulate_training(line, fleet, shape(), WORK, faults=[CutLink("b", "a", 0.0, 4.0)])
    assert short.lost_steps == 0
    assert short.step_s > 4.0
    long = simulate_training(line, fleet, shape(), WORK, faults=[CutLink("a", "b", 0.0)], repair_s=1.0)
    assert {"a", "b"} != {stage.node for stage in long.stages} > {"e"}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_has_every_microbatch_once_each_way(schedule):
    for stage in range(4):
        todo = order(replace(WORK, schedule=schedule), stage, 4, 8, 2)
        chunks = 2 if schedule == "interleaved" else 1
        assert len(todo) == len(set(todo)) == 2 * 8 * chunks
        for work in todo:
            if work.kind == "backward":
                assert todo.index(work._replace(kind="forward")) < todo.index(work)


@pytest.mark.parametrize("microbatches", [1, 2, 3, 7, 8, 10])
def test_the_interleaved_schedule_takes_any_number_of_microbatches(microbatches):
    """Stages whose last round is not full do not wait for each other for ever."""
    interleaved = replace(WORK, schedule="interleaved")
    run, whole = (
        simulate_training(train_plan("abc", microbatches=count), pool(*map(node, "abc")), shape(), interleaved)
        for count in (microbatches, -(-microbatches // 3) * 3)
    )
    assert 0 < run.pipeline_s <= whole.pipeline_s * (1 + 1e-9)


def test_what_cannot_be_scheduled_is_refused():
    fleet, interleaved = pool(*map(node, "abc")), replace(WORK, schedule="interleaved")
    with pytest.raises(InvalidRequest, match="at least 1"):
        simulate_training(train_plan("abc"), fleet, shape(), interleaved, chunks=0)
    with pytest.raises(InvalidRequest, match="at least 1"):
        simulate_training(train_plan("abc"), fleet, shape(), WORK, steps=0)


def test_a_thin_link_back_bounds_the_step_as_much_as_one_forth():
    slow = LinkSpeed(0.0, 2e6)
    free = pool(*map(node, "ab"), latency_s=0.0, bandwidth=1e12)
    forth, back = (replace(free, links={pair: slow}) for pair in (("a", "b"), ("b", "a")))
    line = train_plan("ab", microbatches=10)
    one, other = (simulate_training(line, fleet, shape(), WORK).pipeline_s for fleet in (forth, back))
    assert one == pytest.approx(other, rel=0.05)
    assert one > 10 * 512 * 1024 * 2 / 2e6
