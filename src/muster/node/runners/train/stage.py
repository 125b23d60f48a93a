"""A stage at work on what the head orders: step by step with the places of its round. Knows no arithmetic of training.

The work of a step (`train/step`) is a generator: it computes in a thread until it waits for something; what it sends
leaves at once. Orders are carried out one after the other, and a new round ends whatever waits in vain.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from msgspec.structs import replace
from torch import Tensor

from muster.compress.registry import PLAIN
from muster.errors import LinkDown, MusterError, OutOfStep, ProtocolViolation
from muster.model.trainable import TrainableStage
from muster.node.runners.base import Cheated, RunnerVitals, Send, refuse
from muster.node.runners.base import Place as NodePlace
from muster.node.runners.thread import ComputeThread
from muster.node.runners.train.accept import check_round, check_texts
from muster.node.runners.train.held import Held
from muster.node.runners.train.mailbox import Mailbox
from muster.node.runners.train.round import Round
from muster.spec.pool import NodeId
from muster.train.instructions import Place, Receive, SendLetter, Tensors, Work
from muster.train.links import StageLinks
from muster.train.pieces import Letter, LetterOrigin, as_they_are, to_pieces
from muster.train.score import Score
from muster.train.step import StageTrainer, StepReport
from muster.wire.frame import Payload
from muster.wire.messages.base import EpochMessage
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.train import (
    FRESH,
    HEAD,
    AllFigures,
    BeginRound,
    RoundReady,
    SendState,
    TakeState,
    TellFigures,
    TensorPiece,
    TrainEnded,
    TrainTexts,
)

Order = BeginRound | SendState | TakeState | TrainTexts
Came = Letter | tuple[tuple[float, ...], ...] | None


@dataclass(frozen=True, slots=True)
class _Ended:
    report: Any


class TrainingStage:
    """Implements `Runner`."""

    def __init__(self, place: NodePlace, stage: TrainableStage, hidden_size: int) -> None:
        self._place, self._stage, self._hidden_size = place, stage, hidden_size
        self._settings = place.assign.pipeline.train
        self._epoch, self._index = place.assign.epoch, place.assign.index
        self._thread = ComputeThread(self._epoch, place.speed)
        self._mailbox = Mailbox(
            place.head, lambda origin, name: None if self._held is None else self._held.numel(origin, name)
        )
        self._orders: asyncio.Queue[Order] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._reply: Send = _to_nobody
        self._round: Round | None = None
        self._held: Held | None = None
        self._links: StageLinks | None = None
        self._done = FRESH
        """Steps that are in the weights."""
        self._sequence = 0
        """Of the last order that came."""
        self._ids: dict[int, bytes] = {}
        """Of each order that waits, what came with it."""
        self._reached: dict[NodeId, Send] = {}

    # --- what comes ---------------------------------------------------------------------------------------------------

    def receive(self, peer: NodeId, message: EpochMessage, payload: Payload, reply: Send) -> None:
        if isinstance(message, TensorPiece):
            if self._round is None or message.round < self._round.number:
                return  # of places that have not heard yet that their round is over
            if message.round > self._round.number:
                raise refuse(peer, message)
            self._mailbox.add(peer, message, payload, self._round, self._sequence)
            return
        if peer != self._place.head:
            raise refuse(peer, message)
        match message:
            case BeginRound():
                check_round(message)
                self._begin(message, reply)
            case TrainTexts() if self._is_current(message.round):
                check_texts(message, self._settings)
                self._sequence = message.sequence
                self._orders.put_nowait(message)
                self._ids[message.sequence] = bytes(payload)
            case SendState() | TakeState() if self._is_current(message.round):
                self._orders.put_nowait(message)
            case AllFigures() if self._is_current(message.round):
                self._mailbox.add_figures((message.sequence, message.number), message.figures)
            case TrainTexts() | SendState() | TakeState() | AllFigures():
                pass  # of a round that is over
            case _:
                raise refuse(peer, message)

    def _numel(self, origin: LetterOrigin, name: str) -> int | None:
        return None if self._held is None else self._held.numel(origin, name)

    def _is_current(self, number: int) -> bool:
        return self._round is not None and number == self._round.number

    def _begin(self, begin: BeginRound, reply: Send) -> None:
        self._reply = reply
        self._round = Round.of(begin, self._index)
        self._place.admit({place.address.node for place in begin.places})
        self._mailbox.empty()
        self._ids.clear()
        self._sequence = 0
        while not self._orders.empty():
            self._orders.get_nowait()
        self._orders.put_nowait(begin)
        if self._task is not None:
            self._task.cancel()

    def forget(self, reply: Send) -> None:
        if reply == self._reply:
            self._reply = _to_nobody

    def vitals(self) -> RunnerVitals:
        return self._thread.vitals()

    async def close(self) -> None:
        await self._thread.close()

    # --- orders -------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        while True:
            order = await self._orders.get()
            self._task = asyncio.create_task(self._obey(order))
            try:
                await asyncio.wait([self._task])
            except asyncio.CancelledError:
                self._task.cancel()
                raise
            if not self._task.cancelled():
                self._task.result()

    async def _obey(self, order: Order) -> None:
        assert self._round is not None
        match order:
            case BeginRound():
                await self._begin_round(self._round)
            case TrainTexts():
                await self._train(order, self._round)
            case SendState():
                await self._send_state(order, self._round)
            case TakeState():
                await self._take_state(order, self._round)

    async def _begin_round(self, round: Round) -> None:
        await self._thread.compute(lambda: self._prepare(round))
        try:
            for node, address in round.partners(bool(self._stage.at_both_ends())).items():
                round.sends[node] = await self._way_to(node, address)
        except (LinkDown, ProtocolViolation) as error:
            self._say(TrainEnded(epoch=self._epoch, round=round.number, sequence=0, code=error.code, reason=str(error)))
            return
        self._say(RoundReady(epoch=self._epoch, round=round.number, done=self._done))

    def _prepare(self, round: Round) -> None:
        """For this round, with the optimizer of the last one; a step that was cut short leaves nothing."""
        trainer = StageTrainer(self._stage, round.here, round.layout, round.run)
        if self._held is not None:
            before = self._held.trainer
            trainer.optimizer = before.optimizer
            trainer.exchange.restore(before.exchange.state())
        trainer.optimizer.forget()
        self._held = Held(self._stage, trainer, self._settings, self._hidden_size, len(round.places))
        # Both ends of each link begin anew, so that they remember the same.
        self._links = StageLinks(round.here, round.run.links, round.run.seed)

    async def _way_to(self, node: NodeId, address: Any) -> Send:
        if node not in self._reached:
            own = any(node in stage.members for stage in self._place.assign.stages)
            if own:
                self._reached[node] = await self._place.reach(node)
            else:
                self._reached[node] = await self._place.reach_beside(address, lambda error: self._lost(node, error))
        return self._reached[node]

    def _lost(self, node: NodeId, error: MusterError) -> None:
        """The way to a place of another pipeline: the head begins another round, in which it is dialled again."""
        self._reached.pop(node, None)
        if self._round is not None and node in self._round.sends:
            lost = LinkDown(str(error))
            self._say(
                TrainEnded(epoch=self._epoch, round=self._round.number, sequence=0, code=lost.code, reason=str(lost))
            )

    async def _train(self, order: TrainTexts, round: Round) -> None:
        assert self._held is not None
        trainer = self._held.trainer
        self._mailbox.tidy(order.sequence)
        texts = self._texts(order)
        try:
            if order.score:
                score = await self._carry_out(trainer.score(texts), order, round)
                self._say(self._scored(order, score))
                return
            report = await self._carry_out(trainer.step(order.step, texts, order.total_tokens), order, round)
            self._say(self._stepped(order, report))
        except OutOfStep as error:
            lost = LinkDown(str(error))  # a new round begins with the same memories at all ends
            self._say(
                TrainEnded(
                    epoch=self._epoch, round=order.round, sequence=order.sequence, code=lost.code, reason=str(lost)
                )
            )
        except ProtocolViolation:
            raise
        except MusterError as error:
            ended = TrainEnded(epoch=self._epoch, round=order.round, sequence=order.sequence)
            self._say(_with(ended, step=order.step, code=error.code, reason=str(error)))

    def _texts(self, order: TrainTexts) -> list[Tensor]:
        """The microbatches; where nobody needs their tokens, only as many as there are."""
        payload = self._ids.pop(order.sequence)
        if order.ids is None:
            if self._stage.is_first or self._stage.is_last:
                raise ProtocolViolation("The head sent no texts to an end of a pipeline; update it.")
            return [torch.empty(count, 0, dtype=torch.int64) for count in order.texts]
        shape = torch.Size((sum(order.texts), self._settings.length + 1))
        if tuple(order.ids.shape) != tuple(shape):
            raise ProtocolViolation("The head sent texts of another size than it said; update it.")
        ids = PLAIN.decode(order.ids, payload, 8 * shape.numel()).to(torch.int64)
        vocabulary = self._stage.model.config.get_text_config(decoder=True).vocab_size
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
            raise ProtocolViolation("The head sent tokens that the model does not have; update it.")
        return list(torch.split(ids, list(order.texts)))

    def _stepped(self, order: TrainTexts, report: StepReport) -> TrainEnded:
        ended = TrainEnded(epoch=self._epoch, round=order.round, sequence=order.sequence, step=report.step)
        return _with(ended, loss=report.loss, gradient_norm=report.gradient_norm, learning_rate=report.learning_rate)

    def _scored(self, order: TrainTexts, score: Score) -> TrainEnded:
        ended = TrainEnded(epoch=self._epoch, round=order.round, sequence=order.sequence, step=order.step)
        return _with(ended, loss=score.loss, tokens=score.tokens)

    # --- one piece of work --------------------------------------------------------------------------------------------

    async def _carry_out(self, work: Work[Any], order: TrainTexts, round: Round) -> Any:
        told: list[int] = []
        loop = asyncio.get_running_loop()

        def post(messages: list[tuple[NodeId | None, AnyMessage, bytes]]) -> None:
            loop.call_soon_threadsafe(self._post, round, messages)

        waits_for: Receive | None = None
        while True:
            came = None if waits_for is None else await self._came(waits_for, order.sequence)
            turn = await self._thread.compute(lambda: self._go_on(work, waits_for, came, order, round, told, post))  # noqa: B023
            if isinstance(turn, _Ended):
                return turn.report
            waits_for = turn

    async def _came(self, wanted: Receive, sequence: int) -> Came:
        if wanted.label.kind == "figures":
            return await self._mailbox.figures((sequence, wanted.label.microbatch))
        return await self._mailbox.letter(
            LetterOrigin(sequence, *wanted.source, wanted.label.kind, wanted.label.microbatch)
        )

    def _go_on(
        self,
        work: Work[Any],
        waited_for: Receive | None,
        came: Came,
        order: TrainTexts,
        round: Round,
        told: list[int],
        post: Callable[[list[tuple[NodeId | None, AnyMessage, bytes]]], None],
    ) -> Receive | _Ended:
        """In the thread: until the work waits again, or ends. `told`: figures that went to the head."""
        try:
            instruction = next(work) if waited_for is None else work.send(self._opened(waited_for, came, order, round))
            while isinstance(instruction, SendLetter):
                post(self._messages(instruction, order, round, told))
                instruction = next(work)
            return instruction
        except StopIteration as ended:
            if isinstance(ended.value, StepReport):
                self._done = ended.value.step
            return _Ended(ended.value)

    def _messages(
        self, instruction: SendLetter, order: TrainTexts, round: Round, told: list[int]
    ) -> list[tuple[NodeId | None, AnyMessage, bytes]]:
        label, to = instruction.label, instruction.to
        if label.kind == "figures":  # they go to the head, once, and it tells everybody
            if label.microbatch in told:
                return []
            told.append(label.microbatch)
            figures = tuple(instruction.tensors["figures"].tolist())
            tell = TellFigures(
                epoch=self._epoch,
                round=round.number,
                sequence=order.sequence,
                figures=figures,
                number=label.microbatch,
            )
            return [(None, tell, b"")]
        node = round.node(to)
        origin = LetterOrigin(order.sequence, *round.here, label.kind, label.microbatch)
        assert self._links is not None
        pieces = to_pieces(self._links.pack(instruction), origin, round.places[to].epoch, round.number)
        return [(node, piece, payload) for piece, payload in pieces]

    def _opened(self, wanted: Receive, came: Came, order: TrainTexts, round: Round) -> Tensors:
        if wanted.label.kind == "figures":
            assert isinstance(came, tuple)
            if len(came) != len(round.places):
                raise ProtocolViolation("The head told figures of another round; update it.")
            return {"figures": torch.tensor(came[round.layout.places.index(wanted.source)], dtype=torch.float64)}
        assert isinstance(came, Letter)
        assert self._links is not None
        assert self._held is not None
        try:
            tensors = self._links.unpack(wanted, came.tensors, self._held.most_bytes(wanted.label))
            self._held.check(wanted.label, order.texts, tensors)
        except OutOfStep:
            raise
        except ProtocolViolation as error:
            raise Cheated(round.node(wanted.source), str(error)) from error
        return tensors

    def _post(self, round: Round, messages: list[tuple[NodeId | None, AnyMessage, bytes]]) -> None:
        if round is not self._round:
            return
        for node, message, payload in messages:
            (self._reply if node is None else round.sends[node])(message, payload)

    def _say(self, message: AnyMessage) -> None:
        self._reply(message, b"")

    # --- weights and optimizer ----------------------------------------------------------------------------------------

    async def _send_state(self, order: SendState, round: Round) -> None:
        to = None if order.pipeline == HEAD else Place(order.pipeline, order.stage)
        if to is not None and to not in round.places:
            raise ProtocolViolation("The head asked to send weights to nobody; update it.")
        node = None if to is None else round.node(to)
        epoch = self._epoch if to is None else round.places[to].epoch
        assert self._held is not None
        for kind, tensors in self._held.state().items():
            origin = LetterOrigin(0, *round.here, kind)
            for piece, payload in to_pieces(as_they_are(tensors), origin, epoch, round.number):
                self._post(round, [(node, piece, payload)])
                await asyncio.sleep(0)

    async def _take_state(self, order: TakeState, round: Round) -> None:
        origins = [LetterOrigin(0, order.pipeline, order.stage, kind) for kind in ("weights", "optimizer")]
        weights, optimizer = [await self._mailbox.letter(origin) for origin in origins]
        held = self._held
        assert held is not None
        await self._thread.compute(lambda: held.restore(weights, optimizer))
        self._done = order.done
        self._say(RoundReady(epoch=self._epoch, round=round.number, done=order.done))


def _with(ended: TrainEnded, **changes: Any) -> TrainEnded:
    return replace(ended, **changes)


def _to_nobody(message: AnyMessage, payload: Payload) -> None:
    """The head's channel is gone; it opens another for its next round."""
