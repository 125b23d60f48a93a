"""What a stage computes for one prompt, as a list of operators in order: a program that any machine can run in part.

    inputs      value 0: token ids [T] or the hidden state [T, H]; value 1: positions [T]; value 2: rows of logits [S]
    operator    takes values, tensors that the model holds, and plain arguments; makes new values, changes none
    segment     the operators of one layer; what comes before the first layer belongs to it, what follows to the last
    state       at a cut between two operators: the values made before it that are used behind it

Two machines that run the same model with the same versions get the same program, to the last byte, whatever their
devices. Knows no torch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import msgspec
from blake3 import blake3

from muster.verify.merkle import leaf

INPUTS = 3
X, POSITIONS, ROWS = range(INPUTS)


def tensor_digest(dtype: str, shape: tuple[int, ...], data: bytes) -> bytes:
    """32 bytes that bind what is in a tensor and how it is read; `data` row-major, little endian."""
    return blake3(f"{dtype} {shape} ".encode() + data).digest()


class Value(msgspec.Struct, frozen=True, array_like=True, tag="value"):
    """An input of the program, or what an operator made."""

    number: int


class HeldTensor(msgspec.Struct, frozen=True, array_like=True, tag="held"):
    """A parameter or buffer of the model, or a constant of its forward pass; `digest` as in `tensors.digest`."""

    name: str
    digest: bytes


class NamedSetting(msgspec.Struct, frozen=True, array_like=True, tag="setting"):
    """`dtype`, `layout` or `memory_format` with its name in torch; `device` without one: wherever it runs."""

    kind: str
    name: str = ""


class Items(msgspec.Struct, frozen=True, array_like=True, tag="items"):
    items: "tuple[Items | Value | HeldTensor | NamedSetting | bool | int | float | str | None, ...]"


Argument = Items | Value | HeldTensor | NamedSetting | bool | int | float | str | None


class Made(msgspec.Struct, frozen=True, array_like=True):
    """One output: `number` of the value, `dtype` by its name in torch."""

    number: int
    dtype: str
    shape: tuple[int, ...]


class View(msgspec.Struct, frozen=True, array_like=True):
    """A step from a tensor to a part of it, where an operator writes into that part; its first argument is implied."""

    target: str
    arguments: tuple[Argument, ...]
    named: tuple[tuple[str, Argument], ...]
    pick: int = 0
    """Which of several outputs."""


class TracedOperator(msgspec.Struct, frozen=True, array_like=True):
    """`target` as torch prints it, `aten.linear.default`. One that writes in place (`add_`) writes into a copy.

    With `through`, it writes into that part of its first argument; what is made is all of the tensor.
    """

    target: str
    arguments: tuple[Argument, ...]
    named: tuple[tuple[str, Argument], ...]
    made: tuple[Made, ...]
    through: tuple[View, ...] = ()

    @property
    def name(self) -> str:
        """`linear`"""
        return self.target.split(".")[1].removesuffix("_")

    def packed(self) -> bytes:
        return msgspec.msgpack.encode(self)

    def takes(self) -> tuple[int, ...]:
        """Numbers of the values that it reads, each once, in order."""
        found = [leaf.number for leaf in self._leaves() if isinstance(leaf, Value)]
        return tuple(dict.fromkeys(found))

    def held(self) -> tuple[HeldTensor, ...]:
        return tuple(dict.fromkeys(leaf for leaf in self._leaves() if isinstance(leaf, HeldTensor)))

    def in_words(self) -> str:
        """`linear(model.layers.3.mlp.up_proj.weight)`"""
        return f"{self.name}({', '.join(held.name for held in self.held())})"

    def _leaves(self) -> Iterator[Argument]:
        steps: tuple[TracedOperator | View, ...] = (self, *self.through)
        for step in steps:
            for argument in (*step.arguments, *(argument for _, argument in step.named)):
                yield from leaves(argument)


def leaves(argument: Argument) -> Iterator[Argument]:
    """All that an argument consists of."""
    if isinstance(argument, Items):
        for item in argument.items:
            yield from leaves(item)
    else:
        yield argument


@dataclass(frozen=True, eq=False)
class TracedProgram:
    operators: tuple[TracedOperator, ...]
    starts: tuple[int, ...]
    """Where each segment begins, the first at 0."""
    outputs: tuple[int, ...]
    """Values that the stage passes on."""

    @property
    def segments(self) -> int:
        return len(self.starts)

    @cached_property
    def cuts(self) -> tuple[int, ...]:
        """Where segments begin and end: one more than segments."""
        return (*self.starts, len(self.operators))

    @cached_property
    def _last_use(self) -> dict[int, int]:
        """By value: the cut up to which it is needed."""
        last = {number: cut for cut, operator in enumerate(self.operators) for number in operator.takes()}
        return last | dict.fromkeys(self.outputs, len(self.operators))

    @cached_property
    def _made_at(self) -> dict[int, int]:
        made = {made.number: cut + 1 for cut, operator in enumerate(self.operators) for made in operator.made}
        return dict.fromkeys(range(INPUTS), 0) | made

    def alive(self, cut: int) -> tuple[int, ...]:
        """Numbers of the values that make up the state at this cut, in order.

        Operator `cut` is the next to run. The inputs are all there at cut 0.
        """
        return tuple(
            number
            for number, made in self._made_at.items()
            if made <= cut and (self._last_use.get(number, -1) >= cut or cut == made == 0)
        )

    def leaves(self) -> list[bytes]:
        """Hashes of the operators, in order, for `merkle`."""
        return [leaf(operator.packed()) for operator in self.operators]
