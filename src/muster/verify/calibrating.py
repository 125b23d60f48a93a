"""Limits from runs of honest variants and from the share of false alarms that is allowed. Runs nothing itself.

Drifts of windows of 1, 2, 4 .. blocks are taken as log-normal; the limit of each length is an upper tolerance limit:
with a confidence of 95 % at most `false_alarms` of honest windows lie above it (by the noncentral t distribution:
G. Hahn, W. Meeker, "Statistical Intervals", 1991, section 4.6). Margins of tokens that fall otherwise are taken as
exponential. What is below the resolution of a receipt's values says nothing.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from muster.errors import InvalidRequest
from muster.verify.fingerprint import RESOLUTION
from muster.verify.limits import DriftLimits, windows_of

Floats = npt.NDArray[np.float64]
CONFIDENCE = 0.95
LEAST_WINDOWS = 30
"""Fewer say nothing about a tail."""
MOST_BLOCKS = 64
FLOOR = 4 * RESOLUTION
MARGIN_FLOOR = 1e-4
"""Of margins, which are differences of logarithms computed in float32."""


def calibrated(honest: Sequence[Floats], false_alarms: float) -> DriftLimits:
    """From block means of honest requests, one array each. Raises `InvalidRequest` where they are too few."""
    ones = np.concatenate(honest) if honest else np.array([])
    if len(ones) < LEAST_WINDOWS:
        raise InvalidRequest(
            f"{len(ones)} honest windows are too few to set a limit from; run more variants or longer texts.", "windows"
        )
    if not np.isfinite(ones).all():
        raise InvalidRequest("An honest run gave what is no number; this model cannot be audited in this dtype.")
    limits: list[float] = []
    blocks = 1
    while blocks <= MOST_BLOCKS:
        found = np.concatenate([windows_of(one, blocks) for one in honest])
        if len(found) < LEAST_WINDOWS:
            break
        limits.append(max(FLOOR, upper_limit(found, false_alarms)))
        blocks *= 2
    return DriftLimits(tuple(limits), false_alarms, len(ones))


def upper_limit(found: Floats, false_alarms: float) -> float:
    """Of a log-normal sample; never below what was seen."""
    logs = np.log(np.maximum(found, FLOOR / 4))
    count, z = len(logs), stats.norm.isf(false_alarms)
    factor = stats.nct.ppf(CONFIDENCE, count - 1, z * count**0.5) / count**0.5
    return float(max(np.exp(logs.mean() + factor * logs.std(ddof=1)), found.max()))


def margin_limit(margins: Floats, false_alarms: float, tokens: int) -> float:
    """Over so many tokens at once. `margins` are of all honest tokens, most of them 0."""
    others = margins[margins > 0]
    if not len(others):
        return MARGIN_FLOOR
    # Few tokens fall otherwise: the mean of their margins is known only roughly.
    mean = 2 * others.sum() / stats.chi2.ppf(1 - CONFIDENCE, 2 * len(others))
    expected = tokens * len(others) / len(margins)
    return float(max(MARGIN_FLOOR, others.max(), mean * np.log(max(expected / false_alarms, np.e))))


def surprise_limit(found: Floats, false_alarms: float) -> float:
    """`found` are mean surprises of requests times the root of their tokens."""
    spread = float(np.sqrt(np.mean(found**2))) if len(found) else 1.0
    return float(stats.norm.isf(false_alarms / 2) * max(1.0, spread))


def confidence(rejected: int, of: int) -> tuple[float, float]:
    """Between what shares the true one lies, at 95 % (C. Clopper, E. Pearson, Biometrika 26, 1934)."""
    low = 0.0 if rejected == 0 else float(stats.beta.ppf(0.025, rejected, of - rejected + 1))
    high = 1.0 if rejected == of else float(stats.beta.ppf(0.975, rejected + 1, of - rejected))
    return low, high
