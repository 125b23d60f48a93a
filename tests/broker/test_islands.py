"""A pool places stages on islands by itself, mends them with another, and keeps apart who do not reach each other."""

from dataclasses import replace

from muster.broker.events import PipelineId
from muster.broker.pipelines.job import JobModel, JobOptions, PlannedPipeline
from muster.plan.serve.options import Pin
from muster.spec import plan
from muster.wire.messages.membership import PeerMeasured
from muster.wire.messages.placement import StageLost
from tests.broker.actors import SERVED, Actor, Stage, node_id

MODEL: JobModel = replace(SERVED, shape=replace(SERVED.shape, degrees=(2,)))


def join(pool: Stage, number: int, memory_mib: float, island: str, *near: int) -> Actor:
    actor = pool.join(number, memory_mib, island=island)
    for other in near:
        pool.tell(actor, PeerMeasured(peer=node_id(other), round_trip_s=1e-4, bandwidth_bytes_per_s=1e9))
    return actor


def pool_of_pairs(*islands: str, memory_mib: float = 2000) -> Stage:
    """Two machines for each island, which could all hold the model alone."""
    pool = Stage(served=MODEL, job=JobOptions(rebalance_s=1.0))
    for place, island in enumerate(islands):
        first, second = 2 * place + 1, 2 * place + 2
        join(pool, first, memory_mib, island, second)
        join(pool, second, memory_mib, island, first)
    pool.pass_time(5)
    return pool


def stages(pool: Stage) -> tuple[plan.Stage, ...]:
    assert pool.route is not None
    return pool.route.pipeline.stages


def test_machines_of_an_island_share_the_model_where_that_is_faster() -> None:
    (stage,) = stages(pool_of_pairs("box"))
    assert stage.degree == 2
    assert all(one.degree == 1 for one in stages(pool_of_pairs("")))


def test_a_lost_member_ends_the_stage_and_a_repair_forms_another_island() -> None:
    pool = pool_of_pairs("box", "shed")
    (stage,) = stages(pool)
    lost = int(stage.others[0], 16)
    pool.cut(pool.at(lost))
    pool.pass_time(5)
    (again,) = stages(pool)
    assert again.degree == 2
    assert not set(again.members) & set(stage.members)


def test_members_that_do_not_find_each_other_serve_alone_after_two_trials() -> None:
    pool = pool_of_pairs("box")
    for _ in range(2):
        (stage,) = stages(pool)
        assert stage.degree == 2
        first = pool.at(int(stage.node, 16))
        pool.tell(first, StageLost(epoch=first.serving_epoch, peer=stage.others[0], reason="no answer"))
        pool.pass_time(8)
    assert all(one.degree == 1 for one in stages(pool))


def test_pipelines_of_a_plan_may_have_devices_of_one_island_each() -> None:
    planned = tuple(PlannedPipeline((Pin("box", 0, 8, (one, one + 1)),)) for one in (0, 2, 4))
    pool = Stage(served=MODEL, job=JobOptions(planned=planned))
    for number in range(1, 7):
        join(pool, number, 2000, "box")
    pool.pass_time(10)
    placed = [pool.route_of.get(PipelineId("model", number)) for number in range(3)]
    members = [set(route.pipeline.members()) for route in placed if route is not None]
    assert [len(some) for some in members] == [2, 2, 2]
    assert len(set.union(*members)) == 6
