"""Machines of an island as one: who shares with whom, what each has to hold, and what a pool plans by itself."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from muster.cost.memory import stage_bytes
from muster.errors import DoesNotFit
from muster.plan.joint import joined
from muster.plan.quick.planner import place
from muster.plan.quick.repair import repair, room_for_pages
from muster.plan.quick.tables import PlanOptions
from muster.plan.replan.choose import can_be
from muster.plan.replan.sharing import sharing
from muster.plan.serve.one_pipeline import one_pipeline
from muster.spec.model_shape import ModelShape
from muster.spec.plan import Pipeline, ServeSettings, Stage
from muster.spec.pool import Device, LinkSpeed, Node, NodeId, Pool

SHAPE = ModelShape(
    name="m",
    architecture="M",
    dtype="float32",
    num_layers=4,
    hidden_size=4096,
    vocab_size=100,
    max_context=128,
    layer_bytes=(10**9,) * 4,
    layer_flops_per_token=(5 * 10**8,) * 4,
    kv_bytes_per_token=(100,) * 4,
    embedding_bytes=10**5,
    head_bytes=10**5,
    head_flops_per_token=10**4,
    degrees=(2, 4),
)
PER_LAYER = ("layer_bytes", "layer_flops_per_token", "kv_bytes_per_token")
OPTIONS = PlanOptions()
NEAR, FAR = LinkSpeed(1e-4, 1e9), LinkSpeed(0.05, 1e7)


def node(name: str, island: str = "", memory: int = 6 * 10**9, speed: float = 1e10) -> Node:
    device = Device("cpu", "made up", memory, {"float32": 100 * speed}, speed, speed, speed)
    return Node(name, name, "", device, island=island)


def pool(*nodes: Node, links: Mapping[tuple[NodeId, NodeId], LinkSpeed] = {}) -> Pool:
    near = {(a.id, b.id): NEAR for a in nodes for b in nodes if a.island and a.island == b.island}
    return Pool(nodes, {**near, **links}, FAR)


def test_the_largest_degree_that_the_model_can_be_cut_at_is_taken_and_the_rest_is_left() -> None:
    joint = joined(SHAPE, pool(*(node(name, "box") for name in "abc"), node("d")))
    assert [sorted(members) for members in joint.members.values()] == [["a", "b"]]
    assert sorted((one.id, one.device_count) for one in joint.pool.nodes) == [("b", 2), ("c", 1), ("d", 1)]
    assert joined(replace(SHAPE, degrees=None), pool(node("a", "box"), node("b", "box"))).members == {}


def test_a_machine_that_would_hold_up_the_others_is_left_out() -> None:
    slow = node("slow", "box", speed=1e9)
    assert joined(SHAPE, pool(node("fast", "box"), slow)).members == {}
    ((first, *_),) = joined(SHAPE, pool(node("a", "box"), node("b", "box", speed=8e9), slow)).members.values()
    assert first == "b"


def test_machines_that_do_not_reach_each_other_are_no_island() -> None:
    down = {("a", "b"): LinkSpeed(1e-4, 0.0)}
    assert joined(SHAPE, pool(node("a", "box"), node("b", "box"), links=down)).members == {}


def test_machines_share_a_stage_where_that_is_faster() -> None:
    near = pool(node("a", "box"), node("b", "box"))
    (stage,) = sharing(place)(SHAPE, near, None, OPTIONS).only_pipeline.stages
    assert (stage.first, stage.last, stage.degree) == (0, 4, 2)
    far = replace(near, links={})  # the same without a fast network
    assert all(one.degree == 1 for one in sharing(place)(SHAPE, far, None, OPTIONS).only_pipeline.stages)
    undeclared = pool(node("a"), node("b"), links={("a", "b"): NEAR, ("b", "a"): NEAR})
    assert all(one.degree == 1 for one in sharing(place)(SHAPE, undeclared, None, OPTIONS).only_pipeline.stages)


def test_machines_share_a_stage_where_only_that_suffices() -> None:
    small = pool(
        *(node(name, "box", 8 * 10**8) for name in "abcd"), *(node(name, "shed", 8 * 10**8) for name in "efgh")
    )
    with pytest.raises(DoesNotFit):
        place(SHAPE, small, None, OPTIONS)
    plan = sharing(place)(SHAPE, small, None, OPTIONS)
    assert [stage.degree for stage in plan.only_pipeline.stages] == [4, 4]
    assert can_be(plan, SHAPE, small, OPTIONS)
    with pytest.raises(DoesNotFit):
        sharing(place)(SHAPE, pool(node("a", "box", 8 * 10**8), node("b", "box", 8 * 10**8)), None, OPTIONS)


def test_a_repair_forms_another_island_and_keeps_the_one_that_is_left() -> None:
    small = pool(
        *(node(name, "box", 16 * 10**8) for name in "abcd"), *(node(name, "shed", 16 * 10**8) for name in "ef")
    )
    keep = Pipeline((Stage("a", 0, 2, others=("gone",)), Stage("e", 2, 4, others=("f",))), ServeSettings(8, 16, 2))
    found = repair(SHAPE, small, keep, OPTIONS)
    assert found is not None
    first, second = found[0]
    assert second == keep.stages[1]
    assert first.degree in (2, 4)
    assert set(first.members) <= set("abcd")


def test_what_the_search_finds_for_islands_can_be_carried_out() -> None:
    three = replace(SHAPE, num_layers=3, **{f: getattr(SHAPE, f)[:3] for f in PER_LAYER})  # two alone would be uneven
    machines = pool(node("a", "box"), node("b", "box"))
    plan = one_pipeline(three, machines, OPTIONS)
    (stage,) = plan.only_pipeline.stages
    assert set(stage.members) == {"a", "b"}
    assert can_be(plan, three, machines, OPTIONS)
    fixed = Stage("a", 0, 2, others=("b",))
    pinned = one_pipeline(three, pool(*machines.nodes, node("c")), replace(OPTIONS, fixed=(fixed,)))
    assert can_be(pinned, three, pool(*machines.nodes, node("c")), OPTIONS)


def test_each_member_has_room_for_what_the_plan_gives_it() -> None:
    machines = pool(*(node(name, "box", 13 * 10**8) for name in "abcd"))
    plan = sharing(place)(SHAPE, machines, None, OPTIONS)
    pipeline = plan.only_pipeline
    assert pipeline.serve.num_pages <= room_for_pages(SHAPE, machines, pipeline.stages, OPTIONS)
    for stage in pipeline.stages:
        need = stage_bytes(SHAPE, stage.first, stage.last, pipeline.serve.cache_tokens, OPTIONS.workspace, stage.degree)
        assert need <= 13 * 10**8
