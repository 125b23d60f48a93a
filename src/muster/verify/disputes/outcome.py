"""What a dispute asks of its referee, where it stands, and how it ends. Decides nothing."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from muster.verify.disputes.program import TracedOperator
from muster.verify.disputes.statements import Reveal, State, TensorBytes

Party = Literal["accused", "accuser"]


@dataclass(frozen=True, slots=True)
class DisputeOutcome:
    """How a dispute ended. `liars` are those who lost; nobody, where the accuser found nothing."""

    liars: tuple[Party, ...]
    reason: str
    rounds: int
    operator: str = ""
    """The one that was recomputed, in words."""
    is_proven: bool = True
    """False where only the measured interval says so, not the one that holds for every order of summation."""


@dataclass(frozen=True, slots=True)
class Fault:
    is_outside: bool
    is_proven: bool
    reason: str


class Referee(Protocol):
    """What needs numbers. The same question gets the same answer."""

    def is_near(self, output: TensorBytes) -> bool:
        """Whether this is what the accused has served, within the opening's limit."""

    def program(self) -> tuple[bytes, int, tuple[int, ...]]:
        """Root, operators and starts of the program of this stage, as it comes out here. Raises `MusterError`."""

    def fault(
        self, operator: TracedOperator, inputs: tuple[TensorBytes, ...], outputs: tuple[TensorBytes, ...]
    ) -> Fault:
        """Whether these outputs of one operator are outside. Raises `MusterError` where it cannot be computed here."""


class Question(NamedTuple):
    """Of a dispute that has begun: cuts are numbers of operators."""

    cuts: tuple[int, ...]
    low: int
    high: int
    middle: int | None
    revealed: Reveal | None
    begin: State
    end: State
