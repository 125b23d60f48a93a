"""All pieces of a network in one process, each on a plane of its own, with messages passed by hand."""

from collections import deque
from collections.abc import Mapping, Sequence

from muster.errors import StepFailed
from muster.model.backends.base import Array, Plane, StepOptions
from muster.model.graph.program import GraphPiece
from muster.train.graph.messages import OUTSIDE, Message, PackedArray, PieceStepped, ValueMessage
from muster.train.graph.side import Side, Wiring


class LocalNetwork:
    def __init__(
        self,
        pieces: Sequence[GraphPiece],
        planes: Sequence[Plane],
        weights: Mapping[str, Array],
        outputs: Sequence[str],
        microbatches: int = 1,
        options: StepOptions = StepOptions(),
    ) -> None:
        """`outputs` of the network; the first is the loss. Raises as planes do when they load."""
        wiring = Wiring.of(pieces, outputs)
        for piece, plane in zip(pieces, planes, strict=True):
            plane.load(piece, {one.name: weights[one.name] for one in (*piece.parameters, *piece.buffers)})
        self.sides = [
            Side(piece, plane, wiring, microbatches, options) for piece, plane in zip(pieces, planes, strict=True)
        ]
        self._wiring = wiring
        self.messages = 0

    def step(self, batches: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
        """One optimizer step over these microbatches, inputs by name; what the network gives out of each."""
        given: list[dict[str, Array]] = [{} for _ in batches]
        done = 0
        for message in self._passed(batches):
            if isinstance(message, PieceStepped):
                done += 1
            elif isinstance(message, ValueMessage):
                given[message.microbatch][message.name] = message.value
        if done < len(self.sides):
            raise StepFailed(f"Only {done} of {len(self.sides)} pieces came to the end of the step; check the pieces.")
        return given

    def _passed(self, batches: Sequence[Mapping[str, Array]]) -> list[Message]:
        """Everything that is for nobody here, after all the rest has been delivered."""
        step = self.sides[0].step
        waiting: deque[Message] = deque(
            ValueMessage(OUTSIDE, target, step, name, PackedArray.of(value), microbatch=number)
            for number, batch in enumerate(batches)
            for name, value in batch.items()
            for target in self._wiring.takers.get(name, ())
            if target != OUTSIDE
        )
        outside: list[Message] = []
        while waiting:
            message = waiting.popleft()
            if isinstance(message, PieceStepped) or message.target == OUTSIDE:
                outside.append(message)
            else:
                self.messages += 1
                waiting.extend(self.sides[message.target].receive(message))
        return outside

    def weights(self) -> dict[str, Array]:
        return {name: array for side in self.sides for name, array in side.plane.weights().items()}
