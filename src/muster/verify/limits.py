"""From where on a difference is no rounding any more: limits of one boundary of a model. They are never typed in, but
follow from runs of honest variants (`calibrating`), and are kept with the model.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from muster.spec.receipt import TOKENS_PER_BLOCK

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DriftLimits:
    """Of one boundary of a model, for one dtype."""

    drift: tuple[float, ...]
    """Highest mean drift of 1, 2, 4 .. blocks."""
    false_alarms: float
    """The share of honest windows that may lie above."""
    windows: int
    """Honest windows of one block that this rests on."""
    margin: float = 0.0
    """Most that a token may be behind; 0 where none are drawn."""
    surprise: float = 0.0
    """Most standard deviations of the mean log probability of all tokens."""

    def of(self, blocks: int) -> float:
        """For a window of so many blocks."""
        return self.drift[min(len(self.drift), max(1, blocks).bit_length()) - 1]


def block_means(drift_T: Floats) -> Floats:
    """The mean of each whole block, in order; of all tokens where there is not even one."""
    count = len(drift_T) // TOKENS_PER_BLOCK
    if count == 0:
        return np.array([drift_T.mean()])
    return np.asarray(drift_T[: count * TOKENS_PER_BLOCK].reshape(count, TOKENS_PER_BLOCK).mean(axis=1))


def windows_of(means: Floats, blocks: int) -> Floats:
    """Means over windows of so many blocks that follow each other without overlap."""
    count = len(means) // blocks
    return np.asarray(means[: count * blocks].reshape(count, blocks).mean(axis=1))
