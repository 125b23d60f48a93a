"""Layers that are planned for several devices go to machines of an island of that name, and what is missing is said."""

import pytest

from muster.plan.quick.planner import place
from muster.plan.quick.tables import PlanOptions
from muster.plan.replan.pinned import Pinned, around, pinned
from muster.plan.serve.options import Pin
from muster.spec.model_shape import ModelShape
from muster.spec.pool import Device, LinkSpeed, Node, Pool

SHAPE = ModelShape(
    name="m",
    architecture="M",
    dtype="float32",
    num_layers=4,
    hidden_size=64,
    vocab_size=100,
    max_context=128,
    layer_bytes=(10**7,) * 4,
    layer_flops_per_token=(10**6,) * 4,
    kv_bytes_per_token=(100,) * 4,
    embedding_bytes=10**5,
    head_bytes=10**5,
    head_flops_per_token=10**4,
)


def node(name: str, island: str = "", memory: int = 10**8, speed: float = 1e9) -> Node:
    return Node(
        name, name, "", Device("cpu", "made up", memory, {"float32": speed}, speed, speed, speed), island=island
    )


def held(pins: tuple[Pin, ...], *nodes: Node) -> list[Pinned]:
    return list(pinned(pins, SHAPE, Pool(nodes), PlanOptions()))


def test_numbers_of_devices_mean_the_machines_of_an_island_in_the_order_of_their_names() -> None:
    pins = (Pin("box", 0, 2, (0, 1)), Pin("box", 2, 4, (2,)))
    first, second = held(pins, node("c", "box"), node("a", "box"), node("b", "box"), node("d"))
    assert first.stage is not None
    assert second.stage is not None
    assert (set(first.stage.members), second.stage.members) == ({"a", "b"}, ("c",))


def test_another_machine_of_the_island_stands_in_for_one_that_is_gone() -> None:
    (one,) = held((Pin("box", 0, 4, (0, 3)),), node("a", "box"), node("b", "box"))
    assert one.stage is not None
    assert set(one.stage.members) == {"a", "b"}


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ((node("a", "box"),), "1 are here and free"),
        ((node("box"),), "muster join --island box"),
        ((), "not here|no machine"),
    ],
)
def test_an_island_that_is_not_here_is_named(nodes: tuple[Node, ...], says: str) -> None:
    (one,) = held((Pin("box", 0, 4, (0, 1)),), *nodes)
    assert one.stage is None
    assert not one.is_here
    assert any(part in one.trouble for part in says.split("|"))


def test_unequal_machines_may_share_a_stage_and_the_slowest_is_named() -> None:
    pool = Pool((node("fast", "box", speed=1e9), node("slow", "box", speed=1e8)))
    (one,) = pinned((Pin("box", 0, 4, (0, 1)),), SHAPE, pool, PlanOptions())
    assert one.stage is not None
    assert one.stage.node == "slow"
    plan = around(place)(SHAPE, pool, None, PlanOptions(fixed=(one.stage,)))
    assert plan.only_pipeline.stages == (one.stage,)
    assert "slow paces its island" in plan.explanation


def test_each_member_needs_room_for_its_part_alone() -> None:
    (one,) = held((Pin("box", 0, 4, (0, 1)),), node("a", "box", 45_000_000), node("b", "box", 45_000_000))
    assert one.stage is not None
    (alone,) = held((Pin("a", 0, 4),), node("a", "box", 45_000_000))
    assert alone.stage is None
    (small,) = held((Pin("box", 0, 4, (0, 1)),), node("a", "box", 45_000_000), node("b", "box", 20_000_000))
    assert "b lends" in small.trouble


def test_machines_of_an_island_that_do_not_reach_each_other_are_named() -> None:
    nodes = (node("a", "box"), node("b", "box"))
    pool = Pool(nodes, {("b", "a"): LinkSpeed(0.001, 0.0)})
    (one,) = pinned((Pin("box", 0, 4, (0, 1)),), SHAPE, pool, PlanOptions())
    assert one.stage is None
    assert "a and b of island box do not reach each other" in one.trouble
