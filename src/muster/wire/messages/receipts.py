"""Receipts of what crossed the boundaries of a ring. They travel beside the steps, and no step waits for them.

Data: a stage to the one behind it, which holds them against what it got. Control: every stage to the head.
"""

import msgspec

from muster.wire.messages.base import EpochMessage

MAX_RECEIPTS = 64
"""In one message."""
MAX_MESSAGE_BYTES = 128 * 1024
"""Of digests and values in one message."""


class SignedRoot(msgspec.Struct, frozen=True, array_like=True):
    """A `spec.receipt.Commitment` without what follows from the placement, and the blocks that its root is of.

    Only who sent tells the head digests and values; who received has the same, or signs another root.
    """

    received: bool
    request: bytes
    layer: int
    start: int
    counts: tuple[int, ...]
    """Positions of each block, which follow each other from `start` on."""
    root: bytes
    at_s: float
    signature: bytes
    digests: bytes = b""
    """Of each block, one after another."""
    values: bytes = b""

    @property
    def end(self) -> int:
        return self.start + sum(self.counts)


class Receipts(EpochMessage, frozen=True, tag="receipts"):
    """Signed by whoever sends this, about its own place in the ring of `epoch`."""

    signed: tuple[SignedRoot, ...]
