"""What the work of a place may ask of whoever runs it: send this, wait for that. Knows no transport.

Work is a generator. It yields a `SendLetter` and goes on at once; it yields a `Receive` and gets the tensors that came.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

from torch import Tensor

Kind = Literal["activations", "gradients", "shared", "figures"]
"""Hidden states forward, their gradients back, gradients of weights that both hold, and a few numbers."""
Tensors = Mapping[str, Tensor]


class Place(NamedTuple):
    """One stage of one pipeline."""

    pipeline: int
    stage: int


class LetterLabel(NamedTuple):
    """Tells apart what one place sends to another in one piece of work."""

    kind: Kind
    microbatch: int = 0


@dataclass(frozen=True, slots=True)
class SendLetter:
    to: Place
    label: LetterLabel
    tensors: Tensors
    texts: tuple[int, ...] = ()
    """Whose hidden states these are, by number, where the same texts may come again; what is only scored names none."""


@dataclass(frozen=True, slots=True)
class Receive:
    source: Place
    label: LetterLabel
    texts: tuple[int, ...] = ()
    """As the sender names them."""


_Result = TypeVar("_Result")
Work = Generator[SendLetter | Receive, Tensors, _Result]
