"""Calls of public operators as data: a piece of a network, forward and backward. Knows no torch and runs nothing.

    inputs     parameters, buffers, constants, then values from outside the piece
    call       one operator of ATen by its full name ("aten.mm.default"), or "getitem"; results are values by name
    outputs    values by name; None where there is nothing to give back

A piece's forward also gives out what its backward will need (`saved`); its backward takes that and the gradients of the
piece's differentiable outputs, and gives gradients of its parameters and of its differentiable inputs.
"""

from collections.abc import Iterator

import msgspec

from muster.errors import ProtocolViolation

MOST_CALLS = 200_000
MOST_BYTES = 2**34
"""Of one tensor."""
ITEM_BYTES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1,
    "bool": 1,
}  # fmt: skip


class Reference(msgspec.Struct, frozen=True, array_like=True, tag="value"):
    """A value or an input, by name."""

    name: str


class Constructor(msgspec.Struct, frozen=True, array_like=True, tag="option"):
    """`dtype`, `layout` or `memory_format` by its name in torch; `device` without one: wherever it runs."""

    kind: str
    name: str = ""


class Several(msgspec.Struct, frozen=True, array_like=True, tag="items"):
    items: "tuple[Several | Reference | Constructor | bool | int | float | str | None, ...]"


Operand = Several | Reference | Constructor | bool | int | float | str | None


class OperatorCall(msgspec.Struct, frozen=True, array_like=True):
    result: str
    operator: str
    operands: tuple[Operand, ...] = ()
    options: tuple[tuple[str, Operand], ...] = ()
    """Operands by name."""

    def references(self) -> Iterator[str]:
        """Names of the values that it takes."""
        for operand in (*self.operands, *(operand for _, operand in self.options)):
            yield from references(operand)


def references(operand: Operand) -> Iterator[str]:
    if isinstance(operand, Reference):
        yield operand.name
    elif isinstance(operand, Several):
        for item in operand.items:
            yield from references(item)


class TensorSpec(msgspec.Struct, frozen=True, array_like=True):
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Raises `ProtocolViolation` for a dtype or a size that no tensor has."""
        if self.dtype not in ITEM_BYTES or any(side < 0 for side in self.shape):
            raise ProtocolViolation(f"The tensor {self.name[:80]} has a dtype or shape that cannot be; update Muster.")
        size = ITEM_BYTES[self.dtype]
        for side in self.shape:
            size *= side
        if size > MOST_BYTES:
            raise ProtocolViolation(f"The tensor {self.name[:80]} has {size} bytes, above {MOST_BYTES}; cut it.")
        return size


class GraphProgram(msgspec.Struct, frozen=True):
    inputs: tuple[str, ...]
    calls: tuple[OperatorCall, ...]
    outputs: tuple[str | None, ...]

    def check(self) -> None:
        """Raise `ProtocolViolation` where it takes what is not made before, makes a name twice, or is too long."""
        if len(self.calls) > MOST_CALLS:
            raise ProtocolViolation(f"A piece has {len(self.calls)} calls, above {MOST_CALLS}; cut it smaller.")
        made = set(self.inputs)
        for call in self.calls:
            lost = [name for name in call.references() if name not in made]
            if lost:
                raise ProtocolViolation(f"The call {call.result[:80]} takes {lost[0][:80]}, which is not made yet.")
            if call.result in made:
                raise ProtocolViolation(f"The value {call.result[:80]} is made twice; a piece names each once.")
            made.add(call.result)
        lost = [name for name in self.outputs if name is not None and name not in made]
        if lost:
            raise ProtocolViolation(f"A piece gives out {lost[0][:80]}, which nothing makes.")

    def last_uses(self) -> list[list[str]]:
        """For each call, the values that nothing takes after it."""
        last = {name: index for index, call in enumerate(self.calls) for name in call.references()}
        kept = set(self.outputs)
        found: list[list[str]] = [[] for _ in self.calls]
        for name, index in last.items():
            if name not in kept:
                found[index].append(name)
        return found


class GraphPiece(msgspec.Struct, frozen=True):
    """What one machine computes of a network."""

    index: int
    """Its place in the order of pieces."""
    inputs: tuple[TensorSpec, ...]
    """Values from earlier pieces, or from outside the network."""
    outputs: tuple[TensorSpec, ...]
    """Values for later pieces, or that the network gives out."""
    parameters: tuple[TensorSpec, ...]
    buffers: tuple[TensorSpec, ...]
    """With constants."""
    updates: tuple[tuple[str, str], ...]
    """(buffer, value): what a buffer holds after the forward pass, such as running means."""
    forward: GraphProgram
    """Takes parameters, buffers, inputs; gives outputs, values of updates, saved values."""
    backward: GraphProgram | None
    """Takes saved values and gradients of `differentiable`; gives gradients of parameters, then of `wanted`. None:
    nothing in the piece can be differentiated."""
    differentiable: tuple[str, ...] = ()
    """Outputs whose gradients the backward takes."""
    wanted: tuple[str, ...] = ()
    """Inputs whose gradients it gives."""

    @property
    def saved(self) -> tuple[str, ...]:
        """Values that are kept from the forward pass to the backward."""
        count = len(self.outputs) + len(self.updates)
        return tuple(name for name in self.forward.outputs[count:] if name is not None)

    def check(self) -> None:
        """Raise `ProtocolViolation` where its programs do not fit to what it says of itself."""
        names = tuple(one.name for one in (*self.parameters, *self.buffers, *self.inputs))
        for one in (*self.parameters, *self.buffers, *self.inputs, *self.outputs):
            one.nbytes  # noqa: B018 - raises
        expected = (*(one.name for one in self.outputs), *(value for _, value in self.updates))
        if self.forward.inputs != names or self.forward.outputs[: len(expected)] != expected:
            raise ProtocolViolation("A piece's forward does not take and give what the piece says; update Muster.")
        self.forward.check()
        if self.backward is not None:
            gradients = len(self.parameters) + len(self.wanted)
            if len(self.backward.outputs) != gradients or len(self.backward.inputs) < len(self.differentiable):
                raise ProtocolViolation("A piece's backward does not take and give what the piece says; update Muster.")
            self.backward.check()


def made_names(program: GraphProgram) -> list[str]:
    """Outputs that are computed, each once: neither inputs nor none."""
    inputs = set(program.inputs)
    return list(dict.fromkeys(name for name in program.outputs if name is not None and name not in inputs))


def gradient_of(output: str) -> str:
    """What a backward program calls the gradient of an output."""
    return f"grad.{output}"


def encode_piece(piece: GraphPiece) -> bytes:
    return msgspec.msgpack.encode(piece)


def decode_piece(data: bytes) -> GraphPiece:
    """Raises `ProtocolViolation` on anything that is no piece."""
    try:
        piece = msgspec.msgpack.decode(data, type=GraphPiece)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ProtocolViolation(f"This is no piece of a network ({str(error)[:120]}); update Muster.") from error
    piece.check()
    return piece
