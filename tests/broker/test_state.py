"""Stories about a pool: who comes, who goes, who lies, and what serves meanwhile."""

from dataclasses import replace

import msgspec
import pytest

from muster.broker.events import DrainNode, NodeSeen, Placed, Remembered, Tick
from muster.broker.pipelines.job import JobOptions
from muster.spec.request import Request
from muster.wire.messages.generate import Submit
from muster.wire.messages.membership import Heartbeat, HeartbeatSeen, PeerMeasured, StageVitals
from muster.wire.messages.placement import Assign, LoadProgress, Release, StageLost
from tests.broker.actors import SECRET, SERVED, Stage, measured, node_id, pool_of

# --- serving ----------------------------------------------------------------------------------------------------------


def test_a_pool_that_is_large_enough_serves_once_everybody_has_loaded():
    stage = Stage()
    stage.auto = False
    nodes = [stage.join(number) for number in (1, 2, 3)]
    stage.pass_time(2)
    used = [node for node in nodes if node.stages]
    assert len(used) == 3
    for node in used:
        assert stage.route is None
        stage.finish_load(node, 1)
    assert stage.route is not None
    assert stage.route.epoch == 1
    assert stage.route.node == stage.route.pipeline.stages[0].node


def test_a_pool_that_is_too_small_says_what_is_missing():
    stage = Stage()
    stage.join(1)
    stage.pass_time(3)
    assert stage.route is None
    assert "Add a machine that lends at least" in stage.lifecycle.trouble


def test_machines_that_join_together_are_placed_together():
    stage = Stage()
    for number in range(1, 6):
        stage.join(number, 2000 if number == 1 else 1000, speed=number)
        stage.pass_time(0.5)
    assert stage.routes == []
    stage.pass_time(1)
    assert len(stage.routes) == 1


def test_the_first_placement_waits_for_as_many_machines_as_the_operator_asked_for():
    stage = Stage(job=JobOptions(min_nodes=3))
    for number in (1, 2):
        stage.join(number, 1000)
    stage.pass_time(20)
    assert stage.routes == []
    stage.join(3, 1000)
    stage.pass_time(2)
    assert len(stage.routes) == 1


def test_a_heartbeat_is_answered_and_silence_costs_the_place():
    stage = pool_of(500, 500, 500)
    actor = stage.at(1)
    stage.tell(actor, actor.beat())
    assert isinstance(actor.heard[-1], HeartbeatSeen)
    actor.silent = True
    stage.pass_time(2.5)
    assert 1 in stage.ranges()
    stage.pass_time(1.5)
    assert not actor.alive
    assert stage.route is not None
    assert 1 not in stage.ranges()


@pytest.mark.parametrize(("late_s", "lost"), [(0.0, True), (0.2, True), (1.0, False)])
def test_a_head_that_is_too_busy_to_read_does_not_take_that_for_silence(late_s: float, lost: bool) -> None:
    stage = Stage()
    stage.join(1)
    stage.pass_time(1)
    for _ in range(4):  # 4 s without a word, of which the head could not read any for `late_s` in each
        stage.now_s += 1.0
        stage.say(Tick(late_s))
    assert (not stage.state.members.members) == lost
    for _ in range(4):
        stage.now_s += 1.0
        stage.say(Tick())
    assert not stage.state.members.members, "it is dead all the same, and a head with time sees that"


def test_a_head_that_slept_does_not_blame_the_nodes():
    stage = pool_of(500, 500, 500)
    stage.now_s += 3600
    stage.pass_time(0.25)
    assert len(stage.state.members.members) == 3
    assert len(stage.routes) == 1


def test_a_lost_stage_goes_to_a_standby_and_the_others_keep_their_layers():
    stage = pool_of(500, 500, 500, 500, speeds=(1, 1, 0.9, 0.3))
    before = stage.ranges()
    assert 4 not in before
    lost = next(iter(before))
    stage.cut(stage.at(lost))
    assert stage.ranges() == {(4 if number == lost else number): layers for number, layers in before.items()}
    assert [route.epoch if route else None for route in stage.routes] == [1, None, 2]


def test_a_node_that_dials_again_replaces_its_ghost_and_gets_its_layers_back():
    stage = pool_of(500, 500)
    before = stage.ranges()
    ghost = stage.at(1)
    again = stage.dial(1)
    assert not ghost.alive
    assert stage.route is None
    stage.tell(again, measured(500))
    stage.pass_time(2)
    assert stage.ranges() == before
    stage.cut(ghost)
    assert stage.ranges() == before


def test_a_drained_node_goes_on_until_somebody_else_is_ready():
    stage = pool_of(500, 500, 500, speeds=(1, 1, 0.1))
    assert set(stage.ranges()) == {1, 2}
    stage.auto = False
    leaving = stage.at(1)
    stage.say(DrainNode(leaving.id))
    assert leaving.loaded == {1}
    assert stage.routes[-1].epoch == 1
    stage.load_all()
    assert set(stage.ranges()) == {2, 3}
    assert not leaving.stages
    stage.auto = True
    stage.pass_time(60)
    assert not leaving.stages


def test_what_serves_makes_way_only_when_the_newcomers_have_their_weights():
    stage = pool_of(500, 500, 500, speeds=(1, 1, 0.1))
    stage.auto = False
    stage.say(DrainNode(node_id(1)))
    survivor, newcomer = stage.at(2), stage.at(3)
    assert list(survivor.stages) == [1], "two stages at once do not fit on it"
    assert list(newcomer.stages) == [2]
    stage.tell(newcomer, LoadProgress(epoch=2, done_bytes=1, total_bytes=2))
    assert stage.routes[-1] is not None
    stage.tell(newcomer, LoadProgress(epoch=2, done_bytes=2, total_bytes=2))
    assert stage.routes[-1] is None
    assert list(survivor.stages) == [2]


def test_a_newcomer_that_waits_in_vain_for_a_deferred_neighbour_is_not_blamed():
    stage = pool_of(500, 500, 500, speeds=(1, 1, 0.1))
    stage.auto = False
    stage.say(DrainNode(node_id(1)))
    newcomer = stage.at(3)
    stage.fail_load(newcomer, 2, code="link_down")
    assert list(newcomer.stages) == [3]
    assert list(stage.at(2).stages) == [3], "the survivor makes way at once this time"
    stage.load_all()
    assert set(stage.ranges()) == {2, 3}


def test_where_memory_allows_the_next_pipeline_loads_beside_the_one_that_serves():
    stage = pool_of(1600, 1600, speeds=(1, 1))
    before = stage.ranges()
    assert len(before) == 1
    (serving,) = before
    stage.say(DrainNode(node_id(serving)))
    assert [route.epoch for route in stage.routes] == [1, 2], "there was always a route"
    assert not stage.at(serving).stages


def test_a_better_machine_is_used_when_it_is_clearly_better_and_not_at_once():
    stage = pool_of(1000)
    stage.join(2, 1000, speed=1.1)
    stage.pass_time(40)
    assert set(stage.ranges()) == {1}, "a tenth faster is not worth an interruption"
    stage.join(3, 1000, speed=5)
    assert set(stage.ranges()) == {1}
    stage.pass_time(40)
    assert set(stage.ranges()) == {3}
    assert None not in stage.routes


def test_a_makeshift_repair_is_replaced_by_something_better_after_a_while():
    stage = pool_of(500, 500, 500, 500, speeds=(1, 1, 1, 0.01))
    stage.cut(stage.at(3))
    assert set(stage.ranges()) == {1, 2, 4}
    stage.pass_time(40)
    assert set(stage.ranges()) == {1, 2}


def test_when_every_machine_has_failed_the_status_says_what_at():
    stage = Stage()
    stage.auto = False
    actor = stage.join(1, 5000)
    stage.pass_time(2)
    stage.fail_load(actor, 1, code="unsupported_model")
    stage.pass_time(1)
    assert stage.lifecycle.trouble == "Node node-1 could not load its layers: It does not fit; lend more."


def test_a_broken_link_between_two_living_nodes_is_avoided_after_the_second_report():
    stage = pool_of(500, 500, 500, speeds=(1, 1, 0.5))
    assert set(stage.ranges()) == {1, 2}
    for _ in range(2):
        if set(stage.ranges()) == {1, 2}:
            reporter = stage.at(1)
            stage.tell(reporter, StageLost(epoch=reporter.serving_epoch, peer=node_id(2), reason="reset"))
            assert set(stage.ranges()) == {1, 3}, "2 rests until its lease has told whether it lives"
            stage.cut(stage.at(3))
            stage.pass_time(5)
            stage.join(3, 500, 0.5)
    assert frozenset((node_id(1), node_id(2))) in stage.state.members.broken
    stage.pass_time(3)
    assert 3 in stage.ranges()


def test_a_report_about_a_node_that_is_no_neighbour_changes_nothing():
    stage = pool_of(500, 500, 500)
    actor = stage.at(1)
    stage.tell(actor, StageLost(epoch=actor.serving_epoch, peer=node_id(77), reason="?"))
    stage.tell(actor, StageLost(epoch=99, peer=node_id(2), reason="?"))
    assert len(stage.routes) == 1


def test_a_stage_of_an_unknown_epoch_is_released():
    stage = pool_of(500, 500, 500)
    actor = stage.join(9, 400)
    stage.tell(actor, Heartbeat(free_memory_bytes=1, stages=(StageVitals(77),)))
    assert actor.heard[-1] == Release(epoch=77)


def test_a_node_that_lost_its_stage_without_saying_so_is_replaced():
    stage = pool_of(500, 500, 500, speeds=(1, 1, 0.1))
    actor = stage.at(1)
    actor.loaded.clear()
    stage.heartbeat(actor)
    assert set(stage.ranges()) == {2, 3}


def test_a_message_that_nodes_do_not_send_closes_the_door():
    stage = pool_of(500, 500, 500)
    actor = stage.at(1)
    stage.tell(actor, Submit(epoch=1, request=Request(id="r", prompt=(1,))))
    assert "protocol_violation" in stage.refused[actor.connection]
    assert node_id(1) not in stage.state.members.members


def test_links_are_guessed_from_regions_and_the_way_to_the_head_until_they_are_measured():
    stage = Stage()
    east, east2, west = (stage.join(n, region=region) for n, region in ((1, "east"), (2, "east"), (3, "west")))
    for actor, round_trip_s in ((east, 0.02), (east2, 0.02), (west, 0.08)):
        stage.tell(
            actor, PeerMeasured(peer="ff" * 32, round_trip_s=round_trip_s, bandwidth_bytes_per_s=1e6 * round_trip_s)
        )
    pool = stage.state.members.pool(stage.now_s)
    assert pool.link(east.id, east2.id).latency_s == 0.001
    assert pool.link(east.id, west.id).latency_s == pytest.approx(0.05)
    assert pool.link(east.id, west.id).bandwidth_bytes_per_s == pytest.approx(2e4)
    stage.tell(east, PeerMeasured(peer=west.id, round_trip_s=0.06, bandwidth_bytes_per_s=0.0))
    pool = stage.state.members.pool(stage.now_s)
    assert pool.link(west.id, east.id).latency_s == pytest.approx(0.03)
    assert pool.link(west.id, east.id).bandwidth_bytes_per_s == pytest.approx(2e4)


# --- restart ----------------------------------------------------------------------------------------------------------


def test_a_restarted_head_gives_its_old_nodes_their_old_layers_under_a_new_epoch():
    first = pool_of(500, 500, 500, speeds=(1, 0.9, 0.8))
    placed = [record for record in first.saved if isinstance(record, Placed)][-1]
    known = {record.node for record in first.saved if isinstance(record, NodeSeen)}
    assert len(known) == 3
    second = Stage(Remembered(placed.epoch, {placed.id: placed.pipeline}, known, (), [(SECRET, 1.0)]))
    for number in (3, 1, 2):
        second.join(number, 500, (1, 0.9, 0.8)[number - 1])
    second.pass_time(2)
    assert second.ranges() == first.ranges()
    assert second.route.epoch == placed.epoch + 1


def restarted(first: Stage, **options) -> Stage:
    """A head that remembers what `first` decided."""
    placed = [record for record in first.saved if isinstance(record, Placed)][-1]
    known = {record.node for record in first.saved if isinstance(record, NodeSeen)}
    remembered = Remembered(placed.epoch, {placed.id: placed.pipeline}, known, (), [(SECRET, 1.0)])
    return Stage(remembered, job=JobOptions(**options))


def test_a_restarted_head_serves_as_soon_as_its_machines_are_back():
    second = restarted(pool_of(500, 500, 500), settle_s=4.0)
    for number in (1, 2, 3):
        assert second.routes == []
        second.join(number, 500)
    assert len(second.routes) == 1


def test_a_restarted_head_does_not_wait_for_ever_for_a_machine_that_is_gone():
    second = restarted(pool_of(500, 500, 500), min_nodes=3)
    second.join(1, 500)
    second.join(3, 500)
    second.pass_time(4)
    assert second.routes == []
    second.pass_time(2)
    assert set(second.ranges()) == {1, 3}


def test_a_pool_that_waits_for_more_machines_says_for_how_many():
    stage = Stage(job=JobOptions(min_nodes=3))
    stage.join(1, 1000)
    stage.pass_time(20)
    assert stage.lifecycle.trouble.startswith("1 of 3 machines are here")


def test_the_assignment_names_everything_that_a_node_needs():
    stage = pool_of(500, 500)
    assign = next(message for message in stage.at(1).heard if isinstance(message, Assign))
    assert assign.model == "model"
    assert assign.manifest == "ab" * 32
    assert assign.dtype == "bfloat16"
    assert assign.pipeline.serve.num_pages > 0
    assert len(assign.peers) == 2


def test_the_heads_own_machine_waits_for_nobody_if_it_holds_the_whole_model():
    alone = Stage(job=JobOptions(own_machine=node_id(1)))
    alone.join(1, 1000)
    assert set(alone.ranges()) == {1}


@pytest.mark.parametrize(("own", "memory_mib"), [(1, 500), (2, 1000), (None, 1000)])
def test_any_other_first_placement_waits_for_the_machines_that_come_together(own, memory_mib):
    pool = Stage(job=JobOptions(own_machine=None if own is None else node_id(own)))
    pool.join(1, memory_mib)
    assert pool.routes == []
    pool.join(3, 500)
    assert pool.routes == []
    pool.pass_time(2)
    assert len(pool.routes) == 1


@pytest.mark.parametrize(
    ("speeds", "memory_mib", "dtype"),
    [
        ([{"float32": 1e12}], 2000, "float32"),
        ([{"float32": 1e12}], 1200, "bfloat16"),
        ([{"float32": 1e12}] * 3, 500, "bfloat16"),
        ([{"float32": 1e12, "bfloat16": 3e12}], 2000, "bfloat16"),
        ([{"float32": 1e12}, {"float32": 1e12, "bfloat16": 3e12}], 2000, "bfloat16"),
        ([{"float32": 1e12, "bfloat16": 1e10}, {"float32": 1e12, "bfloat16": 1.5e12}], 2000, "float32"),
    ],
)
def test_the_machines_and_not_the_head_decide_in_which_dtype_a_model_is_placed(speeds, memory_mib, dtype):
    wide = replace(SERVED.shape, dtype="float32", layer_bytes=tuple(2 * size for size in SERVED.shape.layer_bytes))
    stage = Stage(
        job=JobOptions(min_nodes=len(speeds)),
        served=replace(SERVED, choices=(SERVED.shape, wide)),
    )
    for number, flops in enumerate(speeds, start=1):
        claim = measured(memory_mib)
        stage.tell(stage.dial(number), msgspec.structs.replace(claim, device=replace(claim.device, flops_per_s=flops)))
    stage.pass_time(4)
    assert stage.route is not None
    assigned = [assign for actor in stage.actors.values() for assign in actor.stages.values()]
    assert {assign.dtype for assign in assigned} == {dtype}
    used = [stage.state.pipelines.allocation.held_bytes(actor.id) for actor in stage.actors.values()]
    assert sum(used) > sum(wide.layer_bytes if dtype == "float32" else SERVED.shape.layer_bytes)
