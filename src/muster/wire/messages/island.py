"""Data channel: the members of one stage find each other, and run the same steps. What they add up is not here.

Notes go from every member to the first, which passes them on; steps go from the first to all others.
"""

from muster.wire.messages.base import EpochMessage, TensorHeader
from muster.wire.messages.generate import Row


class IslandNote(EpochMessage, frozen=True, tag="island_note"):
    """How a member is reached, in the words of `torch.distributed`. Said again until all have heard it."""

    key: str
    value: bytes


class IslandStep(EpochMessage, frozen=True, tag="island_step"):
    """Run these rows through your part of the layers, after the step before. The payload is the hidden state.

    A first stage has `tokens` instead. `copies` as in `Step`.
    """

    sequence: int
    """Counted from 0, by the first member."""
    rows: tuple[Row, ...]
    copies: tuple[tuple[int, int], ...] = ()
    tokens: tuple[int, ...] = ()
    hidden: TensorHeader | None = None
