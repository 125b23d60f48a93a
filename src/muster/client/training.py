"""A training run over the pipelines of a pool: follows the broker's routes, forms rounds, and orders step after step.

The places of all pipelines that are up train together in a *round*. When one is lost, the others go on in the next
round, from the step at which they are; one that comes later gets its weights from whoever holds the same layers, or,
where nobody does, all go back to the last checkpoint. Texts follow from the number of the step alone, so that nothing
of this changes what is trained on.

Knows nothing of how pipelines are placed: routes come in through `follow`, and `dial` turns a node id into a channel.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from muster.client.training_round import ReadyPipeline, RoundOver, TrainingRound, alike
from muster.errors import LinkDown, MusterError, PoolUnavailable, ProtocolViolation
from muster.link.base import Channel
from muster.link.outbox import Outbox
from muster.spec.pool import NodeId
from muster.spec.training import DataTable, LinksTable, TrainingRun
from muster.train.checkpoint import Checkpoint
from muster.train.corpus import deal
from muster.train.instructions import Place
from muster.train.kept import state_of
from muster.train.score import Score
from muster.train.step import RunLayout, StepReport
from muster.wire.frame import Payload
from muster.wire.messages.base import Address
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.train import FRESH

Result = TypeVar("Result")
log = structlog.get_logger()
DIAL_S = 10.0
BEGIN_S = 120.0
"""For all places of a round to reach each other."""
PATIENCE_S, TIMES = 1800.0, 20.0
"""A step that takes longer, and so many times longer than any before, does not end any more. What the broker can see,
machines and links that are gone, ends it at once."""
PAUSE_S = 0.25
MAX_VAIN_ROUNDS = 100
"""In a row; then something is wrong that no new round mends."""


@dataclass(frozen=True, slots=True)
class PoolDoor:
    """What the run asks of the pool."""

    dial: Callable[[NodeId], Awaitable[Channel]]
    address: Callable[[NodeId], Address]
    suspect: Callable[[int], None]
    """Told of an epoch in which nothing moves."""
    accuse: Callable[[NodeId, str], None]
    """Told of a machine that broke the rules, and how."""
    loads: Callable[[], bool]
    """Whether a pipeline of the run is on its way."""


class PoolTraining:
    """`follow` beside everything else; then `step`, `score` and `state`, one at a time."""

    def __init__(self, run: TrainingRun, door: PoolDoor, saved: Callable[[], Checkpoint], state_bytes: int) -> None:
        """`saved` is the last checkpoint, or the model that is trained on; `state_bytes` as in `TrainingRound`."""
        self.done = saved().step
        """Steps."""
        self.rounds = 0
        """That were begun."""
        self._run, self._door, self._saved, self._state_bytes = run, door, saved, state_bytes
        self._words = run.model_copy(update={"model": "", "out": "", "data": DataTable(files=("",))}).model_dump_json()
        self._routes: list[ReadyPipeline] = []
        self._routes_changed = asyncio.Event()
        self._ways: dict[NodeId, tuple[Outbox, asyncio.Task[None]]] = {}
        self._round: TrainingRound | None = None
        self._vain = 0
        self._longest_s = 0.0

    # --- the pool -----------------------------------------------------------------------------------------------------

    async def follow(self, routes: AsyncIterator[Collection[ReadyPipeline]]) -> None:
        """Until cancelled."""
        try:
            async for these in routes:
                self._routes = alike(these)
                self._routes_changed.set()
                if self._round is not None and not set(self._round.epochs) <= {route.epoch for route in these}:
                    self._round.end(RoundOver("a pipeline was lost"))
        finally:
            for node in list(self._ways):
                await self._leave(node)

    @property
    def pipelines(self) -> int:
        """That train together."""
        return 0 if self._round is None else self._round.layout.pipelines

    @property
    def holders(self) -> dict[Place, NodeId]:
        return {} if self._round is None else {p: one.address.node for p, one in self._round.places.items()}

    async def _way(self, node: NodeId) -> Outbox:
        if node in self._ways:
            return self._ways[node][0]
        async with asyncio.timeout(DIAL_S):
            channel = await self._door.dial(node)
        box = Outbox(channel, lambda error: self._lost(node, error))
        self._ways[node] = box, asyncio.create_task(self._listen(node, channel))
        return box

    async def _listen(self, node: NodeId, channel: Channel) -> None:
        try:
            while True:
                message, payload = await channel.receive()
                if self._round is not None:
                    self._round.handle(node, message, payload)
        except ProtocolViolation as error:
            self._door.accuse(node, str(error))
            self._lost(node, error)
        except LinkDown as error:
            self._lost(node, error)

    def _lost(self, node: NodeId, error: MusterError) -> None:
        way = self._ways.pop(node, None)
        if way is not None:
            way[0].stop()
            way[1].cancel()
        if self._round is not None and node in self._round.nodes:
            self._round.end(RoundOver(str(error), node))

    async def _leave(self, node: NodeId) -> None:
        box, task = self._ways.pop(node)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await box.close()

    def _post(self, node: NodeId, message: AnyMessage, payload: Payload) -> None:
        if node in self._ways:
            self._ways[node][0].put(message, payload)

    # --- work ---------------------------------------------------------------------------------------------------------

    async def step(self, texts_of: Callable[[int], Any]) -> StepReport:
        """The next step, whatever happens to the machines. It may come before one that was made, after a loss.

        `texts_of` gives the token ids of a step. Raises `TrainingDiverged`, and `PoolUnavailable` where no round comes
        to anything.
        """
        batch = self._run.batch

        async def once(round: TrainingRound) -> StepReport:
            dealt = deal(texts_of(self.done), batch.microbatch, round.layout.pipelines)
            ended = await round.work(self.done, dealt, batch.sequences * batch.length, score=False)
            self.done = ended.step
            return StepReport(ended.step, ended.loss, ended.gradient_norm, ended.learning_rate)

        return await self._whatever_happens(once)

    async def score(self, texts: Any) -> Score:
        """Of held-out texts, token ids [texts, length + 1]."""

        async def once(round: TrainingRound) -> Score:
            dealt = deal(texts, self._run.batch.microbatch, round.layout.pipelines)
            ended = await round.work(self.done, dealt, len(texts) * self._run.batch.length, score=True)
            return Score(ended.tokens, ended.loss)

        return await self._whatever_happens(once)

    async def state(self) -> tuple[int, dict[str, Any], dict[str, Any]]:
        """How many steps are done, and weights and optimizer of the whole model."""

        async def once(round: TrainingRound) -> tuple[int, dict[str, Any], dict[str, Any]]:
            return (self.done, *(await round.state()))

        return await self._whatever_happens(once)

    async def _whatever_happens(self, once: Callable[[TrainingRound], Awaitable[Result]]) -> Result:
        while True:
            try:
                done = await self._watched(once)
            except RoundOver as over:
                self._round = None
                self._vain += 1
                log.info("round.over", reason=str(over), node=over.node, vain=self._vain)
                if self._vain >= MAX_VAIN_ROUNDS:
                    raise PoolUnavailable(
                        f"{self._vain} rounds in a row came to nothing, the last because {over}; what is done stays: "
                        "run again to go on from the last checkpoint."
                    ) from None
                await asyncio.sleep(PAUSE_S)
                continue
            self._vain = 0
            return done

    async def _watched(self, once: Callable[[TrainingRound], Awaitable[Result]]) -> Result:
        round = await self._formed()
        loop = asyncio.get_running_loop()
        patience_s, began_s = max(PATIENCE_S, TIMES * self._longest_s), loop.time()
        try:
            async with asyncio.timeout(patience_s):
                done = await once(round)
        except TimeoutError:
            for epoch in round.epochs:
                self._door.suspect(epoch)
            raise RoundOver(f"nothing was done in {patience_s:.0f} s") from None
        self._longest_s = max(self._longest_s, loop.time() - began_s)
        return done

    async def _formed(self) -> TrainingRound:
        """The round that is there, unless there are other pipelines now."""
        while not self._routes or (self._round is None and not self.rounds and self._door.loads()):
            self._routes_changed.clear()
            with_timeout = asyncio.wait_for(self._routes_changed.wait(), PAUSE_S)
            await asyncio.gather(with_timeout, return_exceptions=True)
        epochs = tuple(route.epoch for route in self._routes)
        if self._round is not None and self._round.epochs == epochs:
            return self._round
        return await self._begin()

    async def _begin(self) -> TrainingRound:
        self.rounds += 1
        try:
            round = TrainingRound(
                self.rounds,
                self._routes,
                self._door.address,
                self._post,
                self._run.batch.length,
                self._state_bytes,
                all_read=self._run.links != LinksTable(),
            )
            self._round = round
            for node in round.nodes:
                await self._way(node)
        except (LinkDown, TimeoutError) as error:
            raise RoundOver(str(error) or "a machine took no channel") from None
        for node in self._ways.keys() - set(round.nodes):
            await self._leave(node)
        try:
            async with asyncio.timeout(BEGIN_S):
                steps = await round.begin(self._words)
        except TimeoutError:
            raise RoundOver("a machine did not answer") from None
        await self._level(round, steps)
        log.info("round.begun", number=round.number, pipelines=round.layout.pipelines, done=self.done)
        return round

    async def _level(self, round: TrainingRound, steps: dict[Place, int]) -> None:
        """Bring all places to the same step: the last one that is whole somewhere, else that of the checkpoint."""
        saved = self._saved()
        if saved.step == 0:
            steps = {place: max(0, done) for place, done in steps.items()}
        sources = _sources(steps, round.layout, apart=self._run.exchange.every > 1)
        if sources is not None and steps[sources[0]] >= saved.step:
            self.done = steps[sources[0]]
            for holder in sources:
                here = [place for place in steps if place.stage == holder.stage and place != holder]
                apart = self._run.exchange.every > 1
                await round.copy_state(
                    holder, [place for place in here if apart or steps[place] != self.done], self.done
                )
            return
        for stage, layers in enumerate(round.ranges):
            weights, optimizer = await asyncio.to_thread(state_of, saved, *layers)
            for pipeline in range(round.layout.pipelines):
                await round.give_state(Place(pipeline, stage), weights, optimizer, saved.step)
        self.done = saved.step


def _sources(steps: Mapping[Place, int], layout: RunLayout, *, apart: bool) -> list[Place] | None:
    """Of each stage, a place with the last step that is whole somewhere; None where none is.

    `apart`: pipelines make steps by themselves, so that only all stages of one belong together.
    """
    stages = range(layout.stages)
    found: list[tuple[int, list[Place]]] = []
    if apart:
        for pipeline in range(layout.pipelines):
            places = [Place(pipeline, stage) for stage in stages]
            if len({steps[place] for place in places}) == 1:
                found.append((steps[places[0]], places))
    else:
        for step in set(steps.values()):
            holders = [[place for place in steps if place.stage == stage and steps[place] == step] for stage in stages]
            if all(holders):
                found.append((step, [places[0] for places in holders]))
    step, places = max(found, default=(FRESH, []))
    return places if step > FRESH else None
