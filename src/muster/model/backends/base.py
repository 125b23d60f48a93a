"""What a plane can do with one piece of a network. Values travel as NumPy arrays, whatever computes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from muster.errors import StepFailed, WeightsInvalid
from muster.model.graph.program import GraphPiece, TensorSpec

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class StepOptions:
    """How weights change: AdamW (Loshchilov and Hutter, arXiv 1711.05101), or SGD with momentum."""

    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    """Of SGD."""
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    weight_decay: float = 0.0


class Plane(Protocol):
    """Holds one piece. Microbatches are told apart by number; their gradients add up until `step`."""

    def load(self, piece: GraphPiece, weights: Mapping[str, Array]) -> None:
        """Raises `Unsupported` with the operators that it lacks, `WeightsInvalid` for weights of other shapes."""

    def forward(self, number: int, values: Mapping[str, Array], *, keep: bool = True) -> dict[str, Array]:
        """The piece's outputs; what the backward needs is kept if `keep`. Raises `StepFailed`."""
        ...

    def backward(self, number: int, gradients: Mapping[str, Array]) -> dict[str, Array]:
        """`gradients` of the piece's differentiable outputs; gives those of its wanted inputs. Raises `StepFailed`."""
        ...

    def gradient(self, parameter: str) -> Array:
        """The sum over microbatches since the last step."""
        ...

    def step(self, options: StepOptions, replaced: Mapping[str, Array]) -> None:
        """Change weights by their gradients, or by those given; all sums begin at zero again."""

    def weights(self) -> dict[str, Array]:
        """Parameters and buffers as they are now."""
        ...


def check_values(specs: Sequence[TensorSpec], values: Mapping[str, Array], who: str) -> None:
    """Raise `StepFailed` where one is missing, has another shape or dtype, or is not finite."""
    for one in specs:
        value = values.get(one.name)
        if value is None:
            raise StepFailed(f"{who} did not get the value {one.name}; the pieces do not belong together.")
        if value.shape != one.shape or str(value.dtype) != one.dtype:
            raise StepFailed(
                f"{who} gave or got {one.name} as {value.dtype} {value.shape} where {one.dtype} {one.shape} belongs; "
                "the pieces do not belong together."
            )
        if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
            raise StepFailed(f"{who} has a value in {one.name} that is not finite; lower the learning rate.")


def check_weights(piece: GraphPiece, weights: Mapping[str, Array]) -> None:
    """Raise `WeightsInvalid` where one is missing or has another shape or dtype."""
    for one in (*piece.parameters, *piece.buffers):
        given = weights.get(one.name)
        if given is None or given.shape != one.shape or str(given.dtype) != one.dtype:
            said = "is missing" if given is None else f"is {given.dtype} {given.shape}"
            raise WeightsInvalid(f"The weight {one.name} {said} where {one.dtype} {one.shape} belongs; send it again.")
