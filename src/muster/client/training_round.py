"""One round of a training run, as the head sees it: who takes part, what they were told, what they have said.

It ends when a place is lost, says that it cannot go on, or breaks the rules; then all that wait here hear `RoundOver`.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from muster.errors import LinkDown, ProtocolViolation, from_code
from muster.spec.pool import NodeId
from muster.train.instructions import Place, Tensors
from muster.train.pieces import Letter, LetterOrigin, as_they_are, origin_of, packed_texts, to_pieces
from muster.train.step import RunLayout
from muster.wire.frame import Payload
from muster.wire.messages.base import Address
from muster.wire.messages.every import AnyMessage
from muster.wire.messages.train import (
    HEAD,
    AllFigures,
    BeginRound,
    RoundReady,
    SendState,
    TakeState,
    TellFigures,
    TensorPiece,
    TrainEnded,
    TrainingPlace,
    TrainTexts,
)

MAX_REASON = 500
"""Characters of a machine's own words."""
MAX_STATE_TENSORS = 1_000_000
MAX_FIGURES = 64
Post = Callable[[NodeId, AnyMessage, Payload], None]


class ReadyPipeline(Protocol):
    """A route of the broker's."""

    @property
    def epoch(self) -> int: ...

    @property
    def name(self) -> str:
        """Of the pipeline: the same in every epoch."""

    @property
    def pipeline(self) -> Any: ...


class RoundOver(Exception):
    """This round comes to nothing more; the message says why, `node` is where."""

    def __init__(self, reason: str, node: NodeId | None = None) -> None:
        super().__init__(reason)
        self.node = node


class TrainingRound:
    def __init__(
        self,
        number: int,
        routes: Sequence[ReadyPipeline],
        address: Callable[[NodeId], Address],
        post: Post,
        length: int,
        state_bytes: int,
        *,
        all_read: bool = False,
    ) -> None:
        """`length` is that of texts in tokens; nobody sends more than `state_bytes` of weights, or of optimizer.

        `all_read`: the stages between first and last need the tokens, too.
        """
        self.number, self.epochs = number, tuple(route.epoch for route in routes)
        self.layout = RunLayout(len(routes), len(routes[0].pipeline.stages))
        self.ranges = [(stage.first, stage.last) for stage in routes[0].pipeline.stages]
        self.places = {
            Place(pipeline, stage): TrainingPlace(pipeline, stage, route.epoch, address(part.node))
            for pipeline, route in enumerate(routes)
            for stage, part in enumerate(route.pipeline.stages)
        }
        self.sequence = 0
        self._post, self._length, self._state_bytes, self._all_read = post, length, state_bytes, all_read
        self._ready: dict[Place, int] = {}
        self._ended: dict[Place, TrainEnded] = {}
        self._figures: dict[tuple[int, int], dict[Place, tuple[float, ...]]] = {}
        self._letters: dict[LetterOrigin, Letter] = {}
        self._changed = asyncio.Event()
        self._over: Exception | None = None

    @property
    def nodes(self) -> list[NodeId]:
        return [place.address.node for place in self.places.values()]

    # --- what comes ---------------------------------------------------------------------------------------------------

    def end(self, reason: Exception) -> None:
        """Nobody is to wait here any longer."""
        self._over = self._over or reason
        self._changed.set()

    def handle(self, node: NodeId, message: AnyMessage, payload: Payload) -> None:
        """Raises `ProtocolViolation` on what a place may not say."""
        if getattr(message, "round", None) != self.number:
            return  # of a round that is over
        place = next((place for place, one in self.places.items() if one.address.node == node), None)
        if place is None:
            return
        match message:
            case RoundReady(done=done):
                self._ready[place] = done
            case TellFigures():
                self._told(place, message)
            case TrainEnded():
                self._end_of(place, node, message)
            case TensorPiece():
                self._piece(place, message, payload)
            case _:
                raise ProtocolViolation(f"A machine sent a {type(message).__name__} to the head; update Muster on it.")
        self._changed.set()

    def _told(self, place: Place, message: TellFigures) -> None:
        if message.sequence != self.sequence or len(message.figures) > MAX_FIGURES:
            raise ProtocolViolation("A machine sent figures that nobody asked for; update Muster on it.")
        key = message.sequence, message.number
        told = self._figures.setdefault(key, {})
        told[place] = message.figures
        if len(told) < len(self.places):
            return
        figures = tuple(told[one] for one in self.places)
        for one in self.places.values():
            all_figures = AllFigures(
                epoch=one.epoch, round=self.number, sequence=key[0], figures=figures, number=key[1]
            )
            self._post(one.address.node, all_figures, b"")

    def _end_of(self, place: Place, node: NodeId, message: TrainEnded) -> None:
        if message.code:
            error = from_code(message.code, message.reason[:MAX_REASON])
            self.end(RoundOver(str(error), node) if isinstance(error, (LinkDown, ProtocolViolation)) else error)
        elif message.sequence == self.sequence:
            self._ended[place] = message

    def _piece(self, place: Place, message: TensorPiece, payload: Payload) -> None:
        origin = origin_of(message)
        if (origin.pipeline, origin.stage) != place or origin.kind not in ("weights", "optimizer"):
            raise ProtocolViolation("A machine sent the head tensors that are not its own; update Muster on it.")
        letter = self._letters.setdefault(origin, Letter())
        held = sum(len(body) for _, body in letter.tensors.values())
        room = 0 if len(letter.tensors) > MAX_STATE_TENSORS else max(0, self._state_bytes - held)
        letter.add(message, payload, lambda name: room)

    # --- what is ordered ----------------------------------------------------------------------------------------------

    def _tell_all(self, make: Callable[[Place, TrainingPlace], tuple[AnyMessage, Payload]]) -> None:
        for place, one in self.places.items():
            message, payload = make(place, one)
            self._post(one.address.node, message, payload)

    async def begin(self, run: str) -> dict[Place, int]:
        """How many steps are in the weights of each place."""
        everybody = tuple(self.places.values())

        def order(place: Place, one: TrainingPlace) -> tuple[AnyMessage, Payload]:
            begin = BeginRound(epoch=one.epoch, round=self.number, pipeline=place.pipeline, places=everybody, run=run)
            return begin, b""

        self._tell_all(order)
        await self._until(lambda: len(self._ready) == len(self.places))
        return dict(self._ready)

    async def copy_state(self, source: Place, to: Sequence[Place], done: int) -> None:
        """Places get their weights and optimizer from one that holds the same layers."""
        holder = self.places[source]
        for place in to:
            one = self.places[place]
            self._ready.pop(place)
            take = TakeState(
                epoch=one.epoch, round=self.number, done=done, pipeline=source.pipeline, stage=source.stage
            )
            send = SendState(epoch=holder.epoch, round=self.number, pipeline=place.pipeline, stage=place.stage)
            self._post(one.address.node, take, b"")
            self._post(holder.address.node, send, b"")
            await self._until(lambda place=place: place in self._ready)  # type: ignore[misc]

    async def give_state(self, to: Place, weights: Tensors, optimizer: Tensors, done: int) -> None:
        """Likewise from the head."""
        one = self.places[to]
        self._ready.pop(to)
        self._post(one.address.node, TakeState(epoch=one.epoch, round=self.number, done=done), b"")
        for kind, tensors in (("weights", weights), ("optimizer", optimizer)):
            origin = LetterOrigin(0, HEAD, HEAD, kind)  # type: ignore[arg-type]
            for piece, payload in to_pieces(as_they_are(tensors), origin, one.epoch, self.number):
                self._post(one.address.node, piece, payload)
                await asyncio.sleep(0)
        await self._until(lambda: to in self._ready)

    async def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Weights and optimizer of the whole model, from the first pipeline."""
        wanted = [Place(0, stage) for stage in range(self.layout.stages)]
        found: dict[str, dict[str, Any]] = {"weights": {}, "optimizer": {}}
        for place in wanted:
            one = self.places[place]
            self._post(one.address.node, SendState(epoch=one.epoch, round=self.number), b"")
        for place in wanted:
            for kind, tensors in found.items():
                origin = LetterOrigin(0, *place, kind)  # type: ignore[arg-type]
                await self._until(lambda origin=origin: self._is_whole(origin))  # type: ignore[misc]
                tensors |= self._letters.pop(origin).open()
        return found["weights"], found["optimizer"]

    def _is_whole(self, origin: LetterOrigin) -> bool:
        letter = self._letters.get(origin)
        return letter is not None and letter.is_whole

    async def work(self, step: int, dealt: Sequence[Sequence[Any]], total_tokens: int, score: bool) -> TrainEnded:
        """What came of a step, or of a look at held-out texts; `dealt` are each pipeline's microbatches [B, T + 1]."""
        self.sequence += 1
        self._ended.clear()
        self._figures.clear()
        last = self.layout.stages - 1

        def order(place: Place, one: TrainingPlace) -> tuple[AnyMessage, Payload]:
            texts = dealt[place.pipeline]
            read = self._all_read or place.stage in (0, last)
            header, payload = packed_texts(texts, self._length) if read else (None, b"")
            message = TrainTexts(
                epoch=one.epoch,
                round=self.number,
                sequence=self.sequence,
                step=step,
                texts=tuple(len(text) for text in texts),
                total_tokens=total_tokens,
                score=score,
                ids=header,
            )
            return message, payload

        self._tell_all(order)
        await self._until(lambda: len(self._ended) == len(self.places))
        return self._ended[Place(0, 0)]

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Raises `RoundOver`, or what a place said went wrong."""
        while True:
            if self._over is not None:
                raise self._over
            if condition():
                return
            self._changed.clear()
            await self._changed.wait()


def alike(routes: Iterable[ReadyPipeline]) -> list[ReadyPipeline]:
    """The most pipelines that are cut at the same layers, by name."""
    by_cuts: dict[tuple[int, ...], list[ReadyPipeline]] = {}
    for route in sorted(routes, key=lambda route: route.name):
        by_cuts.setdefault(tuple(stage.last for stage in route.pipeline.stages), []).append(route)
    return max(by_cuts.values(), key=len, default=[])
