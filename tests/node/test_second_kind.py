"""A kind of work that the node does not know is assigned, run, lost, repaired and dropped like the one it knows."""

import asyncio
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from muster.node.events import Drop
from muster.node.runners.base import Kinds
from muster.node.runners.serve.kind import SERVE
from muster.spec.codec import Codec
from muster.spec.plan import CodedLink, Pipeline, ServeSettings, Stage, TrainSettings
from muster.wire.messages.generate import EpochUnknown, StepDone
from muster.wire.messages.membership import Heartbeat, StageVitals
from muster.wire.messages.placement import Loaded, LoadFailed, StageLost
from tests.node.echo import Echo, answer, echo_kinds, question
from tests.node.scripted_head import Machine, ScriptedHead

pytestmark = pytest.mark.anyio
WORK = TrainSettings(num_microbatches=2)


def over(*machines: Machine) -> Pipeline:
    return Pipeline(tuple(Stage(machine.id, i, i + 1) for i, machine in enumerate(machines)), WORK)


async def test_a_second_kind_of_work_is_assigned_run_lost_repaired_and_dropped(tmp_path: Path) -> None:
    built: list[Echo] = []
    async with ScriptedHead(tmp_path, echo_kinds(built)) as head:
        first, second, third, spare = [await head.add() for _ in range(4)]

        await head.assign(1, over(first, second, third))
        for machine in (first, second, third):
            await machine.hears(Loaded, epoch=1)
        tensor = torch.arange(6, dtype=torch.float32).view(2, 3)
        data = await first.connection.open("data")
        await data.send(*question(1, 0, tensor))
        step, payload = await data.receive()
        assert torch.equal(answer(step, payload), tensor + 1 + 2 + 3)  # type: ignore[arg-type]
        await second.hears(Heartbeat, stages=(StageVitals(1),), steps=1)

        await head.kill(second)
        await data.send(*question(1, 1, tensor))
        lost = await first.hears(StageLost, epoch=1)
        assert lost.peer == second.id
        await head.assign(2, over(first, spare, third))
        for machine in (first, spare, third):
            await machine.hears(Loaded, epoch=2)
        await head.release(1, first, third)
        await data.send(*question(2, 0, tensor))
        step, payload = await data.receive()
        assert (step.epoch, step.sequence) == (2, 0)
        assert torch.equal(answer(step, payload), tensor + 6)  # type: ignore[arg-type]

        await first.hears(Heartbeat, stages=(StageVitals(2),))
        await data.send(*question(1, 2, tensor))
        assert (await data.receive())[0] == EpochUnknown(epoch=1)
        await head.release(2, first, spare, third)
        for machine in (first, spare, third):
            await machine.hears(Heartbeat, stages=())
        await spare.hears(Heartbeat, stages=(), steps=1)
        while not all(echo.closed for echo in built if echo.epoch == 2):
            await asyncio.sleep(0.01)
        assert all(not machine.worker._stages._held for machine in (first, spare, third))


async def test_a_machine_that_becomes_slower_is_so_in_the_stages_that_it_holds(tmp_path: Path) -> None:
    built: list[Echo] = []
    async with ScriptedHead(tmp_path, echo_kinds(built)) as head:
        machine = await head.add()
        await head.assign(1, over(machine))
        await machine.hears(Loaded, epoch=1)
        assert built[0].place.speed() == 1.0
        machine.worker.rehearse(0.25)
        assert built[0].place.speed() == 0.25


async def test_no_queue_outlives_a_node_that_leaves_while_it_drops_a_stage(tmp_path: Path) -> None:
    async with ScriptedHead(tmp_path, echo_kinds([])) as head:
        for turns in range(6):
            machine = await head.add()
            await head.assign(1, over(machine))
            await machine.hears(Loaded, epoch=1)
            place = machine.worker._stages._held[1].place
            sending = [box._task for hop in place._hops for box in hop._boxes]
            machine.worker._carry_out([Drop(1)])
            for _ in range(turns):
                await asyncio.sleep(0)
            machine.running.cancel()
            await asyncio.gather(machine.running, return_exceptions=True)
            assert [task.done() for task in sending] == [True], f"after {turns} turns of the loop"


async def test_no_queue_outlives_a_place_whose_closing_is_cut_short(tmp_path: Path) -> None:
    async with ScriptedHead(tmp_path, echo_kinds([])) as head:
        machine = await head.add()
        for epoch in range(1, 4):
            await head.assign(epoch, over(machine))
            await machine.hears(Loaded, epoch=epoch)
            place = machine.worker._stages._held[epoch].place
            (sending,) = [box._task for hop in place._hops for box in hop._boxes]
            closing = asyncio.create_task(place.close())
            for _ in range(epoch):
                await asyncio.sleep(0)
            closing.cancel()
            await asyncio.wait([sending], timeout=1)
            assert sending.done(), f"after {epoch} turns of the loop"


async def test_each_kind_says_itself_who_may_say_what(tmp_path: Path) -> None:
    async with ScriptedHead(tmp_path, echo_kinds([])) as head:
        first, second = await head.add(), await head.add()
        await head.assign(1, over(first, second))
        await second.hears(Loaded, epoch=1)
        data = await second.connection.open("data")
        await data.send(StepDone(epoch=1, sequence=0, sampled=()))
        with pytest.raises(Exception, match="link"):
            await data.receive()


async def test_a_stage_that_its_neighbour_cheats_blames_the_neighbour(tmp_path: Path) -> None:
    async with ScriptedHead(tmp_path, echo_kinds([])) as head:
        first, second = await head.add(), await head.add()
        await head.assign(1, over(first, second))
        await first.hears(Loaded, epoch=1)
        data = await first.connection.open("data")
        await data.send(replace(question(1, 0, torch.zeros(1))[0], hidden=None))
        assert (await first.hears(StageLost, epoch=1)).peer == second.id


@pytest.mark.parametrize(
    ("pipeline", "says"),
    [
        (Pipeline((Stage("1" * 64, 0, 2),), WORK), "knows no work with TrainSettings"),
        (
            Pipeline(
                (Stage("1" * 64, 0, 2),),
                ServeSettings(num_pages=8, page_size=16, num_microbatches=1, prefill_tokens=64),
                (CodedLink("1" * 64, "2" * 64, Codec("zip")),),
            ),
            "The codec 'zip' is unknown here",
        ),
    ],
)
async def test_what_this_version_cannot_do_is_refused_when_it_is_assigned(
    tmp_path: Path, pipeline: Pipeline, says: str
) -> None:
    async with ScriptedHead(tmp_path, Kinds({ServeSettings: SERVE})) as head:
        machine = await head.add()
        await head.assign(1, pipeline)
        failed = await machine.hears(LoadFailed, epoch=1)
        assert says in failed.reason
        assert "update Muster" in failed.reason
