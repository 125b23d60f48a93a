"""What the members of an island do together in the middle of a layer. Knows no model and no transport.

Every member calls the same functions in the same order, each with its own part.
"""

from typing import Protocol

import torch
from torch import Tensor


class Group(Protocol):
    """The members that hold one stage together, as one of them sees it."""

    @property
    def rank(self) -> int:
        """Which member this is, counted from 0."""

    @property
    def size(self) -> int:
        """How many there are: the tensor-parallel degree."""

    def sum(self, x: Tensor) -> Tensor:
        """The sum of all members' `x`, which have one shape; the same bits at every member.

        Raises `LinkDown` where a member is gone, or answers too late.
        """

    def gather(self, x: Tensor) -> list[Tensor]:
        """Every member's `x`, by rank; they have one shape. Raises as `sum` does."""


class Seat:
    """Implements `Group`: one member's place in an island, whoever the others are.

    A stage stays in memory from one placement to the next, and each placement has a group of its own.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.group: Group | None = None
        """Of the step that runs; it has this rank and this size."""

    def sum(self, x: Tensor) -> Tensor:
        assert self.group is not None, "a stage in parts runs only within a group"
        return self.group.sum(x)

    def gather(self, x: Tensor) -> list[Tensor]:
        assert self.group is not None, "a stage in parts runs only within a group"
        return self.group.gather(x)


def gather_last(group: Group, x: Tensor, whole: int) -> Tensor:
    """The members' parts of the last dimension, put together to its `whole` size; they may differ by one."""
    largest = -(-whole // group.size)
    padded = torch.nn.functional.pad(x, (0, largest - x.shape[-1]))
    parts = group.gather(padded.contiguous())
    sizes = [stop - start for start, stop in (part(whole, rank, group.size) for rank in range(group.size))]
    return torch.cat([one[..., :size] for one, size in zip(parts, sizes, strict=True)], dim=-1)


def part(whole: int, rank: int, size: int) -> tuple[int, int]:
    """What belongs to a member of something of this size: [start, stop). Sizes differ by one at most."""
    return whole * rank // size, whole * (rank + 1) // size
