"""The broker over an in-memory link: scripted nodes join, vanish, drain and come back to a restarted head."""

import asyncio
import time
from dataclasses import replace

import pytest

from muster.broker.events import Placed, Route
from muster.errors import InvalidRequest, LinkDown
from muster.spec.pool import Device
from muster.spec.request import Request
from muster.wire.messages.generate import Submit
from muster.wire.messages.membership import Heartbeat, HeartbeatSeen, Measured, Refused, Welcome
from tests.broker.actors import PIPELINE, SERVED, node_id

pytestmark = pytest.mark.anyio


async def test_nodes_join_by_ticket_load_and_serve(pool):
    nodes = await pool.join(500, 500, 500)
    route = await pool.serving(1, 2, 3)
    assert pool.service.address(route.node) == route.first
    await pool.until(lambda: any(isinstance(message, HeartbeatSeen) for message in nodes[0].heard))
    await pool.until(lambda: pool.service.status()["active_requests"] == 3)
    status = pool.service.status()
    assert status["ready"]
    assert status["placement"][0]["first"] == 0
    assert status["placement"][-1]["last"] == SERVED.shape.num_layers
    work = status["jobs"][0]["pipelines"][0]["work"]
    assert work["num_pages"] * work["page_size"] >= status["max_context"]
    assert work["num_microbatches"] >= len(status["placement"])
    assert {view["state"] for view in status["nodes"]} == {"serving"}
    assert status["max_context"] > 0


async def test_a_pool_that_is_too_small_says_so_in_its_status(pool):
    await pool.join(500)
    await pool.until(lambda: "Add a machine" in pool.service.status()["reason"])
    assert pool.state(1) == "standby"
    assert pool.route() is None


@pytest.mark.parametrize(
    ("say", "code"),
    [
        ({"secret": b"x" * 32}, "invalid_ticket"),
        ({"protocol": 99}, "version_mismatch"),
    ],
)
async def test_a_node_with_a_foreign_ticket_or_another_protocol_is_told_why_it_may_not_come_in(pool, say, code):
    answer = await pool.fake(1).join(**say)
    assert isinstance(answer, Refused)
    assert answer.code == code
    assert answer.reason.endswith(".")
    await asyncio.wait_for(pool.nodes[0].connection.closed.wait(), 5)


async def test_an_expired_ticket_is_refused(pool):
    pool.wall_s += 3601
    answer = await pool.fake(1).join()
    assert isinstance(answer, Refused)
    assert "expired" in answer.reason


async def test_a_lying_node_is_refused_and_nobody_else_is_disturbed(pool):
    await pool.join(500, 500)
    await pool.serving(1, 2)
    liar = pool.fake(9)
    liar.claim = Measured(device=Device("cpu", "x", 2**60), free_memory_bytes=1)
    await liar.join()
    await pool.until(lambda: any(isinstance(message, Refused) for message in liar.heard))
    assert pool.route().epoch == 1


async def test_a_first_message_that_is_no_hello_is_refused(pool):
    node = pool.fake(1)
    connection = await node.endpoint.dial(node.ticket.address)
    control = await connection.open("control")
    await control.send(Heartbeat(free_memory_bytes=0))
    answer, _ = await control.receive()
    assert isinstance(answer, Refused)
    assert answer.code == "protocol_violation"


async def test_a_forbidden_message_ends_the_membership(pool):
    (node,) = await pool.join(500)
    await node.control.send(Submit(epoch=1, request=Request(id="r", prompt=(1,))))
    await asyncio.wait_for(node.connection.closed.wait(), 5)
    await pool.until(lambda: pool.state(1) == "gone")


async def test_a_node_that_falls_silent_loses_its_lease_and_its_layers(pool):
    nodes = await pool.join(500, 500, 500, 500)
    await pool.serving(1, 2, 3)
    nodes[0].beats = False
    await pool.serving(4, 2, 3)
    assert pool.route().epoch == 2
    await asyncio.wait_for(nodes[0].connection.closed.wait(), 5)


async def test_a_node_that_crashes_is_replaced_at_once(pool):
    nodes = await pool.join(500, 500, 500, 500)
    before = await pool.serving(1, 2, 3)
    members = pool.service._state.members
    members.options = replace(members.options, lease_s=60)  # it is not the lease that tells
    nodes[1].crash()
    after = await pool.serving(1, 4, 3)
    replaced = {node_id(2): node_id(4)}
    expected = [(replaced.get(s.node, s.node), s.first, s.last) for s in before.pipeline.stages]
    assert [(s.node, s.first, s.last) for s in after.pipeline.stages] == expected


async def test_a_drained_node_serves_until_the_next_pipeline_is_ready_and_is_then_released(pool):
    nodes = await pool.join(500, 500, 500, 500)
    await pool.serving(1, 2, 3)
    nodes[3].loads = False
    await pool.service.drain(node_id(1))
    await pool.until(lambda: bool(nodes[3].assigned))
    assert pool.state(1) == "draining"
    assert pool.route().epoch == 1
    (epoch,) = nodes[3].assigned
    await nodes[3].load(epoch)
    await pool.serving(2, 3, 4)
    await pool.until(lambda: not nodes[0].assigned)


async def test_a_node_that_says_goodbye_is_let_go(pool):
    nodes = await pool.join(500, 500, 500)
    await pool.serving(1, 2, 3)
    await nodes[2].say_goodbye(drain=False)
    await pool.serving(1, 2)
    await asyncio.wait_for(nodes[2].connection.closed.wait(), 5)


async def test_a_banned_node_is_put_out_and_stays_out_even_after_a_restart(pool):
    nodes = await pool.join(500, 500, 500)
    await pool.serving(1, 2, 3)
    view = await pool.service.ban(node_id(3))
    assert view["state"] == "banned"
    await pool.serving(1, 2)
    await asyncio.wait_for(nodes[2].connection.closed.wait(), 5)
    await pool.stop_head()
    await pool.start_head()
    answer = await nodes[2].join()
    assert isinstance(answer, Refused)
    assert pool.state(3) == "banned"
    await pool.service.unban(node_id(3))
    assert isinstance(await nodes[2].join(), Welcome)


async def test_to_drain_or_ban_somebody_unknown_is_an_error_with_a_remedy(pool):
    with pytest.raises(InvalidRequest, match="muster nodes list"):
        await pool.service.drain(node_id(5))
    with pytest.raises(InvalidRequest, match="muster nodes list"):
        await pool.service.ban(node_id(5))
    with pytest.raises(LinkDown):
        pool.service.address(node_id(5))


async def test_a_restarted_head_finds_its_pool_again_and_old_tickets_still_hold(pool):
    nodes = await pool.join(500, 500, 500)
    before = await pool.serving(1, 2, 3)
    await pool.stop_head()
    await pool.start_head()
    assert {view["state"] for view in pool.service.nodes()} == {"gone"}
    pool.wall_s += 7200  # the ticket has expired, but these nodes were in
    for node in reversed(nodes):
        assert isinstance(await node.join(), Welcome)
    after = await pool.serving(1, 2, 3)
    assert after.epoch > before.epoch
    assert after.pipeline.stages == before.pipeline.stages
    assert isinstance(await pool.fake(8).join(), Refused)


async def test_a_head_that_closes_does_not_take_its_own_farewell_for_a_loss_of_its_machines(pool):
    await pool.join(500, 500, 500, 500)
    before = await pool.serving(1, 2, 3)
    await pool.stop_head()
    await pool.start_head()
    remembered = await asyncio.to_thread(pool.store.remembered)
    assert remembered.pipelines == {PIPELINE: before.pipeline}


async def test_what_was_decided_just_before_the_end_is_still_written_however_slow_the_disk(pool, monkeypatch):
    save, saved = pool.store.save, []

    def slow(record):
        time.sleep(0.05)
        save(record)
        saved.append(record)

    monkeypatch.setattr(pool.store, "save", slow)
    await pool.join(500, 500, 500)
    route = await pool.serving(1, 2, 3)
    await pool.stop_head()
    assert saved[-1] == Placed(PIPELINE, route.epoch, route.pipeline)
    await pool.start_head()


async def test_whoever_watches_sees_every_route_that_lasts(pool):
    seen: list[Route | None] = []

    async def watch() -> None:
        async for routes in pool.service.watch(PIPELINE.job):
            seen.append(routes[-1] if routes else None)  # noqa: PERF401 - read while it grows

    watching = asyncio.create_task(watch())
    nodes = await pool.join(500, 500, 500)
    await pool.serving(1, 2, 3)
    nodes[0].crash()
    await pool.serving(2, 3)
    await asyncio.sleep(0.05)
    watching.cancel()
    epochs = [route.epoch if route else None for route in seen]
    assert epochs[0] is None
    assert epochs[-1] == 2
    assert 1 in epochs


async def test_a_suspected_pipeline_is_arranged_anew(pool):
    await pool.join(500, 500)
    route = await pool.serving(1, 2)
    pool.service.suspect(route.epoch, unreachable=True)
    await pool.until(lambda: (r := pool.route()) is not None and r.epoch == 2)
    pool.service.suspect(route.epoch, unreachable=True)  # an old one changes nothing
    assert pool.route().epoch == 2


async def test_a_second_connection_of_a_node_replaces_the_first(pool):
    nodes = await pool.join(500, 500)
    await pool.serving(1, 2)
    old = nodes[0].connection
    assert isinstance(await nodes[0].join(), Welcome)
    await asyncio.wait_for(old.closed.wait(), 5)
    await pool.until(lambda: (r := pool.route()) is not None and r.epoch == 2)


async def test_a_machine_that_is_gone_can_be_forgotten_and_comes_back_as_a_stranger(pool):
    nodes = await pool.join(500, 500)
    await pool.serving(1, 2)
    with pytest.raises(InvalidRequest, match="is here"):
        await pool.service.forget(node_id(1))
    nodes[0].crash()
    await pool.until(lambda: pool.state(1) == "gone")
    await pool.service.forget(node_id(1))
    assert [view["id"] for view in pool.service.nodes()] == [node_id(2)]
    with pytest.raises(InvalidRequest, match="was ever here"):
        await pool.service.forget(node_id(1))
    await pool.stop_head()
    await pool.start_head()
    assert node_id(1) not in {view["id"] for view in pool.service.nodes()}
    pool.wall_s += 4000
    assert isinstance(await pool.fake(1).join(), Refused), "the ticket has expired, and nobody knows it any more"


async def test_who_was_away_for_too_long_is_forgotten_and_nobody_else(pool):
    nodes = await pool.join(500, 500, 500, 500)
    await pool.serving(1, 2, 3)
    for node in nodes[1:]:
        await node.leave()
    await pool.until(lambda: [pool.state(number) for number in (2, 3, 4)] == ["gone"] * 3)
    await pool.service.ban(node_id(3))
    pool.wall_s += 29 * 86_400
    pool.service.forget_the_long_gone()
    assert {view["gone_s"] for view in pool.service.nodes()} == {None, 29 * 86_400}
    assert isinstance(await pool.fake(4).join(), Welcome)  # back just in time
    pool.wall_s += 2 * 86_400
    pool.service.forget_the_long_gone()
    states = {view["id"]: view["state"] for view in pool.service.nodes()}
    assert set(states) == {node_id(1), node_id(3), node_id(4)}
    assert states[node_id(3)] == "banned"


async def test_a_restarted_head_knows_since_when_a_machine_is_gone_and_that_others_were_here_lately(pool):
    nodes = await pool.join(500, 500, 500)
    await pool.serving(1, 2, 3)
    await nodes[0].leave()
    await pool.until(lambda: pool.state(1) == "gone")
    pool.wall_s += 40 * 86_400
    pool.service.forget_the_long_gone()  # every hour, so that a head that is killed has it in its store
    await pool.stop_head()
    await pool.start_head()
    ages = {view["id"]: view["gone_s"] for view in pool.service.nodes()}
    assert node_id(1) not in ages
    assert ages[node_id(2)] < 60
