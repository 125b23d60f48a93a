"""FlexGen's own planner: for each size of batch and block a linear program over nine shares. Knows no other model.

The equations are in `cost/offload/flexgen`; the way through the sizes is that of the shipped script: batches of 1, 2,
3, 4, 8, 16 …, and for each as many of them in a block as fit, upward until the rate falls.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from muster.cost.offload.flexgen import (
    HD,
    ONE,
    Affine,
    FlexGenMachine,
    FlexGenTerms,
    Form,
    OptSizes,
    flexgen_terms,
)

Floats = NDArray[np.float64]
_SHARES = 9
_LAST_SMALL = 4
"""Batches grow by one up to this, and double beyond it."""
_LARGEST = 4096


@dataclass(frozen=True, slots=True)
class PublishedPolicy:
    """Shares in FlexGen's order: weights, cache, hidden states; of each on GPU, CPU, disk."""

    gbs: int
    num_batches: int
    shares: tuple[float, ...]
    tokens_per_s: float
    prefill_s: float
    """Of all prompts of the block."""
    decode_s: float
    """Of all further tokens of the block."""

    @property
    def bls(self) -> int:
        return self.gbs * self.num_batches


def forecast_published(
    sizes: OptSizes, machine: FlexGenMachine, gbs: int, num_batches: int, shares: Floats, form: Form = "code"
) -> PublishedPolicy:
    """What its model says of shares that were typed by hand; whether they fit is not asked."""
    terms = flexgen_terms(sizes, machine, gbs, gbs * num_batches, form)
    x = np.append(shares, 1.0)
    prefill = max(float(part @ x) for part in terms.prefill_parts())
    decode = max(float(part @ x) for part in terms.decode_parts())
    return _policy(sizes, gbs, num_batches, shares, prefill, decode)


def solve_published(
    sizes: OptSizes, machine: FlexGenMachine, gbs: int, num_batches: int, form: Form = "code"
) -> PublishedPolicy | None:
    """The best shares for these sizes; None where nothing fits."""
    terms = flexgen_terms(sizes, machine, gbs, gbs * num_batches, form)
    matrix, bounds = _inequalities(terms, machine)
    steps = np.array([0.0] * _SHARES + [sizes.layers, sizes.layers * (sizes.answer - 1)])
    wholes = np.zeros((3, _SHARES + 2))
    for row in range(3):
        wholes[row, 3 * row : 3 * row + 3] = 1
    # Its runtime keeps no hidden states on disk, and its shipped planner therefore none either.
    on_disk = (0.0, 0.0) if form == "code" else (0.0, 1.0)
    limits = [on_disk if share == HD else (0.0, 1.0) for share in range(_SHARES)] + [(0.0, np.inf)] * 2
    from scipy.optimize import linprog  # a head that offloads nothing should not load it

    found = linprog(steps, A_ub=matrix, b_ub=bounds, A_eq=wholes, b_eq=np.ones(3), bounds=limits, method="highs")
    if found.status != 0:
        return None
    shares, (prefill, decode) = found.x[:_SHARES], found.x[_SHARES:]
    return _policy(sizes, gbs, num_batches, shares, float(prefill), float(decode))


def plan_published(sizes: OptSizes, machine: FlexGenMachine, form: Form = "code") -> PublishedPolicy | None:
    """The best over all sizes that its script tries; None where not even one sequence fits."""
    best: PublishedPolicy | None = None
    for gbs in _batches():
        most = _most_batches(sizes, machine, gbs, form)
        if most == 0:
            break
        before = 0.0
        for count in range(1, most + 1):
            found = solve_published(sizes, machine, gbs, count, form)
            if found is None or found.tokens_per_s < before:
                break
            before = found.tokens_per_s
            if best is None or found.tokens_per_s > best.tokens_per_s:
                best = found
    return best


def _batches() -> Iterator[int]:
    gbs = 1
    while gbs <= _LARGEST:
        yield gbs
        gbs = gbs + 1 if gbs < _LAST_SMALL else 2 * gbs


def _most_batches(sizes: OptSizes, machine: FlexGenMachine, gbs: int, form: Form) -> int:
    """By doubling, then by halves."""
    high = 1
    while solve_published(sizes, machine, gbs, high, form) is not None:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        fits = solve_published(sizes, machine, gbs, middle, form) is not None
        low, high = (middle, high) if fits else (low, middle)
    return low


def _inequalities(terms: FlexGenTerms, machine: FlexGenMachine) -> tuple[Floats, Floats]:
    """matrix @ (x, Tpre, Tgen) <= bounds, each row scaled to figures near 1."""
    rows = [_row(part, 0) for part in terms.prefill_parts()] + [_row(part, 1) for part in terms.decode_parts()]
    caps = {"gpu": machine.gpu_bytes, "cpu": machine.cpu_bytes, "disk": machine.disk_bytes}
    rows += [
        (np.append(peak[:ONE], [0.0, 0.0]) / cap, machine.usable - peak[ONE] / cap)
        for memory, cap in caps.items()
        for peak in terms.peaks[memory]
    ]
    return np.array([row for row, _ in rows]), np.array([bound for _, bound in rows])


def _row(part: Affine, phase: int) -> tuple[Floats, float]:
    """part(x) <= T of the phase."""
    times = [-1.0, 0.0] if phase == 0 else [0.0, -1.0]
    return np.append(part[:ONE], times), -float(part[ONE])


def _policy(
    sizes: OptSizes, gbs: int, num_batches: int, shares: Floats, prefill: float, decode: float
) -> PublishedPolicy:
    prefill_s, decode_s = sizes.layers * prefill, sizes.layers * (sizes.answer - 1) * decode
    rate = gbs * num_batches * sizes.answer / (prefill_s + decode_s)
    return PublishedPolicy(gbs, num_batches, tuple(float(share) for share in shares), rate, prefill_s, decode_s)
