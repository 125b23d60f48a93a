"""Who may come in, and which claims are believed: bad tickets, other protocols, absurd numbers, liars."""

from dataclasses import replace
from math import inf, nan

import pytest

from muster.broker.events import BanNode, NodeJoined, Remembered, TicketIssued, UnbanNode
from muster.spec.guesses import GuessCounts
from muster.spec.pool import Device
from muster.spec.tiers import TierRates
from muster.wire.messages.base import Address
from muster.wire.messages.membership import Heartbeat, Measured, PeerMeasured, StageVitals, Welcome
from muster.wire.messages.placement import LoadProgress
from tests.broker.actors import SECRET, Stage, hello, measured, node_id, pool_of

# --- the door ---------------------------------------------------------------------------------------------------------


def test_a_node_with_the_secret_is_welcomed_and_told_how_to_keep_its_lease():
    stage = Stage()
    welcome = stage.dial(1).heard[0]
    assert welcome == Welcome(heartbeat_s=1.0, lease_s=3.0, model="model", name="node-1")


def test_a_ticket_of_another_pool_is_refused():
    stage = Stage()
    actor = stage.dial(1, secret=b"x" * 32)
    assert stage.refused[actor.connection].startswith("invalid_ticket: This ticket is not of this pool")
    assert not actor.alive


def test_an_expired_ticket_is_refused_but_not_to_a_node_that_was_in_before():
    stage = Stage(Remembered(secrets=[(SECRET, 1.0)], known=[node_id(2)]))
    assert "has expired" in stage.refused[stage.dial(1).connection]
    assert stage.dial(2).alive


def test_a_proof_made_for_another_node_is_refused():
    stage = Stage()
    stolen = stage.dial(1)
    stage.actors[99] = replace(stolen, connection=99)
    stage.say(NodeJoined(99, node_id(3), hello(node_id(1), address=Address(node=node_id(3))), wall_s=1e9))
    assert stage.refused[99].startswith("invalid_ticket")


@pytest.mark.parametrize(("protocol", "side"), [(0, "node"), (99, "head")])
def test_another_protocol_is_refused_and_told_which_side_to_update(protocol, side):
    stage = Stage()
    refusal = stage.refused[stage.dial(1, protocol=protocol).connection]
    assert refusal.startswith("version_mismatch")
    assert refusal.endswith(f"update Muster on the {side}.")


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "x" * 65},
        {"name": "bell\a"},
        {"region": "r" * 65},
        {"address": Address(node="00" * 32)},
        {"address": Address(node=node_id(1), direct=("1.2.3.4:5",) * 33)},
        {"address": Address(node=node_id(1), direct=("x" * 257,))},
    ],
)
def test_a_greeting_that_is_out_of_bounds_is_refused(changes):
    stage = Stage()
    assert not stage.dial(1, **changes).alive


def test_a_ticket_issued_later_opens_the_door_too():
    stage = Stage()
    stage.say(TicketIssued(b"t" * 32, 1e12))
    assert stage.dial(1, secret=b"t" * 32).alive


def test_a_banned_node_is_put_out_kept_out_and_let_in_again_when_the_ban_is_lifted():
    stage = pool_of(500, 500, 500)
    actor = stage.at(1)
    stage.say(BanNode(actor.id))
    assert stage.refused[actor.connection].startswith("banned")
    assert 1 not in stage.ranges()
    assert "banned" in stage.refused[stage.dial(1).connection]
    stage.say(UnbanNode(actor.id))
    assert stage.dial(1).alive


# --- claims -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [-1, 0, 65 * 2**40, 2**70])
def test_an_absurd_claim_of_memory_is_refused(memory):
    stage = Stage()
    actor = stage.dial(1)
    stage.tell(actor, Measured(device=Device("cpu", "x", memory), free_memory_bytes=1))
    assert "protocol_violation" in stage.refused[actor.connection]
    assert not stage.state.members.members


@pytest.mark.parametrize(
    "changes",
    [
        {"stages": (StageVitals(1, -1),)},
        {"stages": (StageVitals(1, guesses=GuessCounts(guessed=-1)),)},
        {"steps": 2**63},
        {"computing_s": nan},
    ],
)
def test_an_absurd_workload_is_refused(changes):
    stage = Stage()
    actor = stage.join(1)
    stage.tell(actor, Heartbeat(free_memory_bytes=0, **changes))
    assert "protocol_violation" in stage.refused[actor.connection]


@pytest.mark.parametrize("speed", [5e-324, 0.5])
def test_a_speed_that_would_overflow_the_planner_is_refused(speed):
    stage = Stage()
    actor = stage.dial(1)
    device = Device("cpu", "x", 2 * 10**9, {"bfloat16": speed}, speed, speed, speed)
    stage.tell(actor, Measured(device=device, free_memory_bytes=2 * 10**9))
    stage.pass_time(5)
    assert not actor.alive


@pytest.mark.parametrize(
    "tiers",
    [
        TierRates(copies_overlap=1.5),
        TierRates(copy_s=nan),
        TierRates(matmul_flops_per_s=((64, 1e9), (1, 1e9))),
        TierRates(matmul_flops_per_s=((1, inf),)),
        TierRates(measured_on="x" * 1000),
    ],
)
def test_absurd_rates_of_tiers_are_refused(tiers):
    stage = Stage()
    actor = stage.dial(1)
    stage.tell(actor, Measured(device=Device("cpu", "x", 10**9, tiers=tiers), free_memory_bytes=1))
    assert "protocol_violation" in stage.refused[actor.connection]


@pytest.mark.parametrize("speed", [nan, inf, -1.0, 1e30])
def test_an_absurd_speed_is_refused(speed):
    for changes in ({"flops_per_s": {"float32": speed}}, {"memory_bandwidth_bytes_per_s": speed}):
        stage = Stage()
        actor = stage.dial(1)
        stage.tell(actor, Measured(device=Device("cpu", "x", 10**9, **changes), free_memory_bytes=1))
        assert not actor.alive
    actor = stage.dial(2)
    tiers = TierRates(disk_read_bytes_per_s=speed)
    stage.tell(actor, Measured(device=Device("cpu", "x", 10**9, tiers=tiers), free_memory_bytes=1))
    assert not actor.alive
    actor = stage.dial(3)
    stage.tell(actor, PeerMeasured(peer=node_id(1), round_trip_s=speed, bandwidth_bytes_per_s=0.0))
    assert not actor.alive


def test_only_what_is_free_counts():
    stage = Stage()
    actor = stage.dial(1)
    stage.tell(actor, measured(5000, free_mib=10))
    stage.pass_time(3)
    assert stage.route is None
    assert "at least" in stage.lifecycle.trouble


def test_a_node_that_cannot_hold_what_it_claimed_is_believed_less_and_finally_left_alone():
    stage = Stage()
    stage.auto = False
    liar = stage.join(1, 60_000)
    stage.pass_time(2)
    caps = []
    for _ in range(3):
        (epoch,) = liar.stages
        asked = stage.needs(liar, epoch)
        stage.fail_load(liar, epoch)
        caps.append(stage.state.members.cap(stage.state.members.members[liar.id], stage.now_s) / asked)
        stage.pass_time(10)
        if not liar.stages:
            break
    assert all(cap < 1 for cap in caps)
    assert not liar.stages
    honest = stage.join(2, 5000)
    stage.pass_time(2)
    assert honest.stages
    assert not liar.stages


def test_after_a_false_claim_a_node_is_still_trusted_with_what_it_held_before():
    stage = pool_of(500, 500)
    actor = stage.at(1)
    (epoch,) = actor.loaded
    proven = stage.needs(actor, epoch)
    stage.state.members.lied(actor.id, proven * 2, 0, stage.now_s)
    cap = stage.state.members.records[actor.id].cap_bytes
    assert proven <= cap < proven * 2


def test_vanishing_in_the_middle_of_a_load_counts_as_a_false_claim():
    stage = Stage()
    stage.auto = False
    actor = stage.join(1, 5000)
    stage.pass_time(2)
    assert actor.stages
    stage.cut(actor)
    assert stage.state.members.records[actor.id].cap_bytes is not None


def test_a_load_that_stalls_goes_to_somebody_else():
    stage = Stage()
    stage.auto = False
    stuck = stage.join(1, 5000, speed=2.0)
    other = stage.join(2, 5000)
    stage.pass_time(2)
    assert stuck.stages
    assert not other.stages
    stage.pass_time(59)
    (epoch,) = stuck.stages
    stage.tell(stuck, LoadProgress(epoch=epoch, done_bytes=5, total_bytes=10))
    stage.pass_time(50)
    assert stuck.stages
    stage.pass_time(12)
    assert not stuck.stages
    assert other.stages
