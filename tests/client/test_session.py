"""The shell around the client's state: channels come and go with their pipelines, and nothing is left behind."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any

import pytest

from muster.client.session import Sessions, joined
from muster.errors import LinkDown, PoolUnavailable
from muster.link.base import Channel, Connection
from muster.link.memory import MemoryNetwork
from muster.spec.capacity import UNKNOWN, Capacity
from muster.spec.request import Finish, Progress, Request, Sampled
from muster.spec.sampling import Sampling
from muster.spec.scores import PromptScores
from muster.wire.messages.base import Address
from muster.wire.messages.generate import EpochUnknown, Submit, Tokens

HEAD, NODE = "0" * 64, "1" * 64


@dataclass(frozen=True)
class ARoute:
    epoch: int
    node: str = NODE
    name: str = "job/0"
    capacity: Capacity = UNKNOWN


class World:
    """A head's sessions and the one node that serves them."""

    def __init__(self) -> None:
        network = MemoryNetwork()
        self.head, self.node = network.endpoint(HEAD), network.endpoint(NODE)
        self.routes: asyncio.Queue[ARoute | None] = asyncio.Queue()
        self.suspicions: list[tuple[int, bool]] = []
        self.accused: list[str] = []
        self.sessions = Sessions(
            self.dial,
            lambda *suspicion: self.suspicions.append(suspicion),
            accuse=lambda node, reason: self.accused.append(node),
            vocab_size=100,
        )
        self.opened: list[Channel] = []

    async def dial(self, node: str) -> Channel:
        connection: Connection = await self.head.dial(Address(node=node))
        return await connection.open("data")

    async def watch(self) -> AsyncIterator[tuple[ARoute, ...]]:
        while True:
            route = await self.routes.get()
            yield () if route is None else (route,)

    async def accept(self) -> Channel:
        connection = await self.node.accept()
        _, self.last = await connection.accept()
        return self.last


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 20))


async def answer(channel: Channel, epoch: int, first: int, count: int, last: bool) -> None:
    """Take the next request and say some tokens."""
    message, _ = await channel.receive()
    assert isinstance(message, Submit)
    assert message.epoch == epoch
    assert len(message.request.emitted) == first
    tokens = tuple(Sampled(token) for token in range(first, first + count))
    finish = Finish.LENGTH if last else None
    await channel.send(Tokens(epoch=epoch, progress=(Progress(message.request.id, first, tokens, finish),)))


async def collect(sessions: Sessions) -> list[int]:
    request = Request("r", (1, 2), Sampling(max_tokens=6))
    return [sampled.token async for progress in sessions.generate(request) for sampled in progress.tokens]


def test_a_request_moves_to_the_next_pipeline_and_the_old_channel_is_closed() -> None:
    async def story() -> None:
        world = World()
        running = asyncio.create_task(world.sessions.run(world.watch()))
        collected = asyncio.create_task(collect(world.sessions))
        world.routes.put_nowait(ARoute(1))
        first = await world.accept()
        await answer(first, 1, 0, 2, last=False)
        world.routes.put_nowait(None)
        world.routes.put_nowait(ARoute(2))
        second = await world.accept()
        await answer(second, 2, 2, 4, last=True)
        assert await collected == [0, 1, 2, 3, 4, 5]
        with pytest.raises(LinkDown):
            await first.receive()
        # What is left in the end: a receiver of the pipeline at work, the ticker and the follower.
        while len(world.sessions._tasks) > 3:
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        with pytest.raises(LinkDown):
            await second.receive()

    run(story())


def test_a_first_stage_that_breaks_its_channel_is_reported_as_unreachable() -> None:
    async def story() -> None:
        world = World()
        running = asyncio.create_task(world.sessions.run(world.watch()))
        world.routes.put_nowait(ARoute(1))
        channel = await world.accept()
        await channel.close()
        while not world.suspicions:
            await asyncio.sleep(0.01)
        assert world.suspicions == [(1, True)]
        assert world.sessions.state.epoch is None
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run(story())


def test_what_was_submitted_to_a_node_that_holds_no_such_stage_is_submitted_again_elsewhere() -> None:
    async def story() -> None:
        world = World()
        running = asyncio.create_task(world.sessions.run(world.watch()))
        collected = asyncio.create_task(collect(world.sessions))
        world.routes.put_nowait(ARoute(1))
        channel = await world.accept()
        await answer(channel, 1, 0, 2, last=False)
        await channel.send(EpochUnknown(epoch=1))
        while not world.suspicions:
            await asyncio.sleep(0.01)
        assert (world.accused, world.suspicions) == ([], [(1, True)])
        world.routes.put_nowait(ARoute(2))
        await answer(await world.accept(), 2, 2, 4, last=True)
        assert await collected == [0, 1, 2, 3, 4, 5]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run(story())


def test_a_first_stage_that_sends_what_is_no_token_is_accused_and_the_request_goes_elsewhere() -> None:
    async def story() -> None:
        world = World()
        running = asyncio.create_task(world.sessions.run(world.watch()))
        collected = asyncio.create_task(collect(world.sessions))
        world.routes.put_nowait(ARoute(1))
        await answer(await world.accept(), 1, 0, 2, last=False)
        cheat = Progress("r", 2, (Sampled(100),))
        await world.last.send(Tokens(epoch=1, progress=(cheat,)))
        while not world.suspicions:
            await asyncio.sleep(0.01)
        assert (world.accused, world.suspicions) == ([NODE], [(1, True)])
        world.routes.put_nowait(ARoute(2))
        await answer(await world.accept(), 2, 2, 4, last=True)
        assert await collected == [0, 1, 2, 3, 4, 5]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run(story())


def test_a_node_that_takes_no_channel_holds_up_no_other_route(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muster.client.session.DIAL_S", 0.05)

    async def story() -> None:
        world = World()
        dial = world.dial

        async def dial_or_wait(node: str) -> Channel:
            return await dial(node) if node == NODE else await asyncio.Event().wait()  # type: ignore[return-value]

        world.sessions._dial = dial_or_wait
        running = asyncio.create_task(world.sessions.run(world.watch()))
        collected = asyncio.create_task(collect(world.sessions))
        world.routes.put_nowait(ARoute(1, node="2" * 64))
        world.routes.put_nowait(ARoute(2))
        await answer(await world.accept(), 2, 0, 6, last=True)
        assert await collected == [0, 1, 2, 3, 4, 5]
        while not world.suspicions:
            await asyncio.sleep(0.01)
        assert (world.accused, world.suspicions) == (["2" * 64], [(1, True)])
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run(story())


def test_a_bug_in_a_session_ends_the_run_instead_of_leaving_requests_to_wait() -> None:
    async def story() -> None:
        world = World()

        def broken(*suspicion: Any) -> None:
            raise ZeroDivisionError

        world.sessions._suspect = broken
        running = asyncio.create_task(world.sessions.run(world.watch()))
        world.routes.put_nowait(ARoute(1))
        await (await world.accept()).close()
        with pytest.raises(ZeroDivisionError):
            await running

    run(story())


def test_tokens_that_wait_are_handed_over_as_one_piece() -> None:
    tokens = [Progress("r", i, (Sampled(i),), Finish.LENGTH if i == 4 else None) for i in range(5)]
    scores = PromptScores(1, 0, b"\0" * 8)
    opening = [Progress("r", 0, (), scores=scores), Progress("r", 0, (), scores=scores)]
    error = PoolUnavailable("gone; try again.")
    assert joined(tokens) == [Progress("r", 0, tuple(Sampled(i) for i in range(5)), Finish.LENGTH)]
    assert joined([*opening, tokens[0]]) == [opening[0], Progress("r", 0, tokens[0].tokens, scores=scores)]
    assert joined([tokens[0], tokens[1], error]) == [Progress("r", 0, (Sampled(0), Sampled(1))), error]
