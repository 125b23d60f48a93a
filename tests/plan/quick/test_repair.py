"""A lost machine's layers go to somebody else; the others keep theirs."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from muster.errors import PoolUnavailable
from muster.plan.quick.planner import place
from muster.plan.quick.tables import PlanOptions
from muster.spec.pool import LinkSpeed
from tests.examples import examples
from tests.plan.fleets import check_plan, node, pool, shape

OPTIONS = PlanOptions(min_context=512)
FLEET = pool(*(node(name, 400) for name in "abcd"), node("fast", 400, 0.5), node("slow", 400, 0.1))
MODEL = shape()


def without(fleet, *names):
    return replace(fleet, nodes=tuple(machine for machine in fleet.nodes if machine.id not in names))


def ranges(plan):
    return {stage.node: (stage.first, stage.last) for stage in plan.pipelines[0].stages}


def test_the_fastest_standby_takes_exactly_the_lost_range():
    before = place(MODEL, FLEET, options=OPTIONS)
    lost = before.pipelines[0].stages[1]
    left = without(FLEET, lost.node)
    after = place(MODEL, left, keep=before.pipelines[0], options=OPTIONS)
    check_plan(after, MODEL, left, OPTIONS)
    assert ranges(after) == {("fast" if name == lost.node else name): layers for name, layers in ranges(before).items()}
    assert "keep their layers" in after.explanation


def test_two_small_standbys_share_a_range_that_neither_holds():
    whole = pool(node("a", 520), node("b", 520), node("c", 330, 0.1), node("d", 330, 0.1))
    before = place(MODEL, whole, options=OPTIONS)
    assert set(ranges(before)) == {"a", "b"}
    after = place(MODEL, without(whole, "b"), keep=before.pipelines[0], options=OPTIONS)
    assert set(ranges(after)) == {"a", "c", "d"}
    assert ranges(after)["a"] == ranges(before)["a"]


def test_without_a_standby_the_others_share_the_layers_anew():
    whole = pool(*(node(name, 500) for name in "abc"))
    before = place(MODEL, whole, options=OPTIONS)
    left = without(whole, before.pipelines[0].stages[0].node)
    after = place(MODEL, left, keep=before.pipelines[0], options=OPTIONS)
    check_plan(after, MODEL, left, OPTIONS)


def test_a_broken_link_between_two_that_remain_is_not_kept():
    before = place(MODEL, FLEET, options=OPTIONS)
    first, second = before.pipelines[0].nodes()[:2]
    broken = {(first, second): LinkSpeed(0.01, 0.0), (second, first): LinkSpeed(0.01, 0.0)}
    after = place(MODEL, replace(FLEET, links=broken), keep=before.pipelines[0], options=OPTIONS)
    order = after.pipelines[0].nodes()
    ring = list(zip(order, (*order[1:], order[0]), strict=True))
    assert (first, second) not in ring
    assert (second, first) not in ring


machines = st.tuples(st.integers(150, 900), st.sampled_from([0.3, 1.0, 4.0]))


@examples(80)
@given(sizes=st.lists(machines, min_size=2, max_size=8), lost=st.sets(st.integers(0, 7), max_size=3))
def test_after_any_loss_the_repaired_plan_is_sound(sizes, lost):
    fleet = pool(*(node(f"n{i}", *size) for i, size in enumerate(sizes)))
    try:
        before = place(MODEL, fleet, options=OPTIONS)
        left = without(fleet, *(f"n{i}" for i in lost))
        after = place(MODEL, left, keep=before.pipelines[0], options=OPTIONS)
    except PoolUnavailable:
        return
    check_plan(after, MODEL, left, OPTIONS)
