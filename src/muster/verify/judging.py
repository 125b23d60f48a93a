"""The verdict on one stage of one request. Three questions side by side, since each alone is blind to something.

forward     is what it claims to have computed near what comes out?       blind to how tokens were drawn
margins     do the same noise and these logits draw the same tokens?      blind to small errors
surprise    are the tokens as likely as they should be on the whole?      blind to most, but not to a temperature
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from muster.verify.limits import DriftLimits, block_means, windows_of

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an auditor found; `faults` are sentences, none where the stage passes."""

    tokens: int
    drift: float
    """The largest, as a part of its limit: above 1 is a fault."""
    margin: float = 0.0
    """Likewise."""
    surprise: float = 0.0
    faults: tuple[str, ...] = ()

    @property
    def passes(self) -> bool:
        return not self.faults


def judge(
    drift_T: Floats, limits: DriftLimits, margins_S: Floats | None = None, surprise_S: Floats | None = None
) -> Verdict:
    """`margins_S` and `surprise_S` where the stage has drawn tokens."""
    drift = worst_drift(block_means(drift_T), limits)
    margin = 0.0 if margins_S is None or not len(margins_S) else float(margins_S.max()) / limits.margin
    surprise = 0.0
    if surprise_S is not None and len(surprise_S):
        surprise = abs(float(surprise_S.sum())) / len(surprise_S) ** 0.5 / limits.surprise
    faults = []
    if not drift <= 1:
        faults.append(f"what it computed is {drift:.3g} times as far off as honest machines get")
    if not margin <= 1:
        faults.append(f"a token is {margin:.3g} times as far behind another as rounding explains")
    if not surprise <= 1:
        faults.append(f"its tokens are {surprise:.3g} times as unlikely or as likely as chance explains")
    return Verdict(len(drift_T), drift, margin, surprise, tuple(faults))


def worst_drift(means: Floats, limits: DriftLimits) -> float:
    """Over windows of every length, as a part of the limit of that length."""
    worst = 0.0
    for power in range(len(limits.drift)):
        found = windows_of(means, 1 << power)
        if not len(found):
            break
        worst = max(worst, float(found.max()) / limits.drift[power])
    return worst
