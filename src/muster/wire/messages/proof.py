"""Proof channel: the head asks a machine to show what it claims. Only seeds and short answers travel."""

from muster.wire.messages.base import Message


class ShowSpeed(Message, frozen=True, tag="show_speed"):
    """Head to node: do this exercise (`verify.speed`) at once. The clock runs until `Finished`."""

    seed: bytes
    dtype: str
    size: int
    rounds: int
    columns: int


class Finished(Message, frozen=True, tag="finished"):
    """The exercise is done; `digest` (BLAKE3, hex) binds the answer, which follows as `ExerciseAnswer`."""

    digest: str


class ExerciseAnswer(Message, frozen=True, tag="answer"):
    """The payload is the answer to the exercise."""


class HoldMemory(Message, frozen=True, tag="hold_memory"):
    """Head to node: fill so many rows of memory as the seed says (`verify.memory`); answered by `Holding`."""

    seed: bytes
    rows: int


class Holding(Message, frozen=True, tag="holding"):
    """So many rows are filled; fewer than asked for where the node lends less, or has less to spare now."""

    rows: int


class ReadMemory(Message, frozen=True, tag="read_memory"):
    """Head to node: the sum of every row with the weights of this nonce; answered by `ExerciseAnswer`."""

    nonce: bytes
