"""One piece of a network on one plane: messages in, messages out. Knows no link and no clock.

A microbatch goes forward as soon as all of its values are there, and back as soon as all gradients of what it gave are.
Gradients of one value that come from several pieces are summed in the order of the pieces, so that results do not
depend on which link was faster. A message that comes twice changes nothing.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from muster.errors import ProtocolViolation
from muster.model.backends.base import Array, Plane, StepOptions
from muster.model.graph.program import GraphPiece, TensorSpec
from muster.train.graph.messages import (
    OUTSIDE,
    GradientMessage,
    Message,
    PackedArray,
    PieceStepped,
    SharedGradient,
    ValueMessage,
)


@dataclass(frozen=True)
class Wiring:
    """Who makes and who takes what, of all pieces."""

    maker: Mapping[str, int]
    """Value -> piece; values from outside are not in it."""
    takers: Mapping[str, tuple[int, ...]]
    """Value -> pieces, in order; `OUTSIDE` among them for what the network gives out."""
    holders: Mapping[str, tuple[int, ...]]
    """Parameter -> pieces."""
    loss: str

    @staticmethod
    def of(pieces: Sequence[GraphPiece], outputs: Sequence[str]) -> "Wiring":
        """`outputs` of the network; the first is the loss."""
        takers: dict[str, list[int]] = defaultdict(list)
        holders: dict[str, list[int]] = defaultdict(list)
        for piece in pieces:
            for value in piece.inputs:
                takers[value.name].append(piece.index)
            for parameter in piece.parameters:
                holders[parameter.name].append(piece.index)
        for name in outputs:
            takers[name].append(OUTSIDE)
        maker = {value.name: piece.index for piece in pieces for value in piece.outputs}
        return Wiring(
            maker,
            {name: tuple(found) for name, found in takers.items()},
            {name: tuple(found) for name, found in holders.items()},
            outputs[0],
        )


class Side:
    def __init__(
        self, piece: GraphPiece, plane: Plane, wiring: Wiring, microbatches: int, options: StepOptions
    ) -> None:
        """`plane` has loaded the piece. A loss is the mean over `microbatches` of equal size."""
        self.piece, self.plane = piece, plane
        self._wiring, self._microbatches, self._options = wiring, microbatches, options
        self.step = 0
        self._begin()

    def _begin(self) -> None:
        self._values: dict[int, dict[str, Array]] = defaultdict(dict)
        self._gradients: dict[int, dict[str, dict[int, Array]]] = defaultdict(lambda: defaultdict(dict))
        self._forwarded: set[int] = set()
        self._done: set[int] = set()
        self._shared: dict[str, dict[int, Array]] = defaultdict(dict)

    def receive(self, message: Message) -> Iterator[Message]:
        """What follows from it. Raises `ProtocolViolation` for what is not this piece's, `StepFailed` as planes do."""
        if isinstance(message, PieceStepped) or message.target != self.piece.index:
            raise ProtocolViolation(f"Piece {self.piece.index} got a message for somebody else; check the plan.")
        if message.step != self.step:
            if message.step < self.step:
                return  # said again by somebody who goes on after a loss
            raise ProtocolViolation(f"Piece {self.piece.index} is at step {self.step} and hears of {message.step}.")
        if isinstance(message, ValueMessage):
            yield from self._value(message)
        elif isinstance(message, GradientMessage):
            yield from self._gradient(message)
        else:
            yield from self._shared_gradient(message)

    def _value(self, message: ValueMessage) -> Iterator[Message]:
        number = self._checked(message.microbatch)
        if number in self._forwarded:
            return
        values = self._values[number]
        values[message.name] = _fitting(_spec_of(self.piece.inputs, message.name), message.packed, self.piece.index)
        if len(values) < len(self.piece.inputs):
            return
        outputs = self.plane.forward(number, values)
        self._forwarded.add(number)
        del self._values[number]
        for name, value in outputs.items():
            for target in self._wiring.takers.get(name, ()):
                yield ValueMessage(self.piece.index, target, self.step, name, PackedArray.of(value), microbatch=number)
            if name == self._wiring.loss and name in self.piece.differentiable:
                self._gradients[number][name][OUTSIDE] = np.full(value.shape, 1 / self._microbatches, value.dtype)
        yield from self._back(number)

    def _gradient(self, message: GradientMessage) -> Iterator[Message]:
        number = self._checked(message.microbatch)
        if number in self._done:
            return
        if message.name not in self.piece.differentiable or message.source not in self._wiring.takers[message.name]:
            raise ProtocolViolation(
                f"Piece {self.piece.index} wants no gradient of {message.name[:80]}; check the plan."
            )
        spec = _spec_of(self.piece.outputs, message.name)
        self._gradients[number][message.name][message.source] = _fitting(spec, message.packed, self.piece.index)
        yield from self._back(number)

    def _back(self, number: int) -> Iterator[Message]:
        """As soon as every gradient is there that will come."""
        if number not in self._forwarded or number in self._done:
            return
        sums = {}
        for name in self.piece.differentiable:
            sources = self._expected(name)
            came = self._gradients[number][name]
            if not sources <= came.keys():
                return
            parts = [came[source] for source in sorted(sources)]
            sums[name] = sum(parts[1:], start=parts[0]) if parts else self._zeros(name)
        found = self.plane.backward(number, sums) if self.piece.backward is not None else {}
        self._done.add(number)
        self._gradients.pop(number, None)
        for name, value in found.items():
            maker = self._wiring.maker[name]
            yield GradientMessage(self.piece.index, maker, self.step, name, PackedArray.of(value), microbatch=number)
        if len(self._done) == self._microbatches:
            yield from self._ended()

    def _expected(self, name: str) -> set[int]:
        """Who sends a gradient of it: takers that differentiate, and whoever wants the loss."""
        takers = {target for target in self._wiring.takers.get(name, ()) if target != OUTSIDE}
        return takers | ({OUTSIDE} if name == self._wiring.loss else set())

    def _zeros(self, name: str) -> Array:
        spec = _spec_of(self.piece.outputs, name)
        return np.zeros(spec.shape, spec.dtype)

    def _ended(self) -> Iterator[Message]:
        """All microbatches went back: tell who shares parameters, and step when they have told."""
        for one in self.piece.parameters:
            others = [other for other in self._wiring.holders[one.name] if other != self.piece.index]
            if others:
                own = self.plane.gradient(one.name)
                self._shared[one.name][self.piece.index] = own
                for other in others:
                    yield SharedGradient(self.piece.index, other, self.step, one.name, PackedArray.of(own))
        yield from self._step()

    def _shared_gradient(self, message: SharedGradient) -> Iterator[Message]:
        if message.source not in self._wiring.holders.get(message.name, ()):
            raise ProtocolViolation(f"Piece {message.source} shares no parameter {message.name[:80]}; check the plan.")
        spec = _spec_of(self.piece.parameters, message.name)
        self._shared[message.name][message.source] = _fitting(spec, message.packed, self.piece.index)
        yield from self._step()

    def _step(self) -> Iterator[Message]:
        if len(self._done) < self._microbatches:
            return
        summed = {}
        for one in self.piece.parameters:
            holders = self._wiring.holders[one.name]
            if len(holders) > 1:
                if self._shared[one.name].keys() != set(holders):
                    return
                parts = [self._shared[one.name][holder] for holder in holders]
                summed[one.name] = sum(parts[1:], start=parts[0])
        self.plane.step(self._options, summed)
        yield PieceStepped(self.piece.index, self.step)
        self.step += 1
        self._begin()

    def _checked(self, microbatch: int) -> int:
        if not 0 <= microbatch < self._microbatches:
            raise ProtocolViolation(f"There is no microbatch {microbatch} of {self._microbatches}; check the plan.")
        return microbatch


def _spec_of(specs: Sequence[TensorSpec], name: str) -> TensorSpec:
    found = next((one for one in specs if one.name == name), None)
    if found is None:
        raise ProtocolViolation(f"A message names {name[:80]}, which the piece does not have; check the plan.")
    return found


def _fitting(spec: TensorSpec, packed: PackedArray, index: int) -> Array:
    if packed.shape != spec.shape or packed.dtype != spec.dtype:
        raise ProtocolViolation(
            f"Piece {index} got {spec.name} as {packed.dtype} {packed.shape} where {spec.dtype} {spec.shape} belongs."
        )
    return packed.array()
