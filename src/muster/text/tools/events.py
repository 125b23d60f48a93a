"""What an answer is made of, piece by piece, whatever the model's way to write it and the client's way to read it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Said:
    """The next piece of the text for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Thought:
    """The next piece of the reasoning that precedes it."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    index: int
    """Its place among the calls of this answer."""
    id: str
    """Made from the request's id and the index, so that it is the same after a repair."""
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next piece of the arguments: all of them together are the JSON text of an object, if the call ends."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The arguments are complete, as far as the model's own format tells."""

    index: int


Event = Said | Thought | CallBegun | CallArguments | CallEnded
