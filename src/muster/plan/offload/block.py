"""The best shares for one size of block on one machine: a linear program. Knows no other machine.

min   sum over phases of times x t,   t of a phase as in `cost/offload/step`, by two inequalities for each actor:
      t_k >= t_(k-1) + (1 - overlap) a_k    and    t_k >= a_k + (1 - overlap) t_(k-1)
with  device + host + disk = 1 for each group of weights, the cache and the hidden states
      bytes of each tier <= what is lent of it
"""

from dataclasses import dataclass, replace

import numpy as np

from muster.cost.offload.load import StageSizes, stage_sizes
from muster.cost.offload.rates import uses_host_in_place
from muster.cost.offload.room import tier_bytes
from muster.cost.offload.step import ACTORS, BlockSize, Floats, Phase, num_shares, phases, places, together
from muster.spec.model_shape import ModelShape
from muster.spec.pool import Device
from muster.spec.tiers import TIERS, Tier, TierRates

_FOLDS = len(ACTORS) - 1
_FEW = 4
_MANY = 10**6
"""Tokens that want every expert."""
_KEPT = 1e-5
"""Of what is lent, for what rounding takes when shares are told."""


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """Shares for one stage, and what they come to."""

    size: BlockSize
    shares: tuple[float, ...]
    """As in `places`."""
    seconds: float
    """Of the stage, until every sequence of a block has its answer."""


@dataclass(frozen=True, slots=True)
class BlockProblem:
    """One stage on one machine."""

    shape: ModelShape
    first: int
    last: int
    device: Device
    rates: TierRates
    skew: float = 0.0
    resident: bool = False
    """Whether all weights that steps read stay on the device, which then needs no buffers for them."""

    @property
    def sizes(self) -> StageSizes:
        return stage_sizes(self.shape, self.first, self.last, self.skew)

    def phases(self, size: BlockSize) -> list[Phase]:
        return phases(self.sizes, self.rates, size)

    def room(self, size: BlockSize) -> Floats:
        return tier_bytes(self.shape, self.last, self.sizes, size, uses_host_in_place(self.device), self.resident)

    @property
    def embedding(self) -> Tier:
        """Where it lies: in host memory if that has four times its bytes, else on disk; on the device without either.

        It is not split, and a step wants a few rows of it only.
        """
        nbytes = sum(group.nbytes for group in self.sizes.groups if group.name == "embedding")
        if self.device.host_memory_bytes >= _FEW * nbytes:
            return "host"
        return "disk" if self.device.disk_bytes >= nbytes else "device"

    @property
    def lent(self) -> Floats:
        """Bytes of device, host memory and disk that may be filled."""
        device = self.device
        return (1 - _KEPT) * np.array([device.memory_bytes, device.host_memory_bytes, device.disk_bytes], dtype=float)

    def seconds(self, size: BlockSize, shares: Floats) -> float:
        x = np.append(shares, 1.0)
        return sum(phase.times * together(phase.parts @ x, phase.hides) for phase in self.phases(size))

    def fits(self, size: BlockSize, shares: Floats) -> bool:
        return bool((self.room(size) @ np.append(shares, 1.0) <= self.lent * (1 + _KEPT / 2) + 1).all())


def best_shares(problem: BlockProblem, size: BlockSize) -> BlockPlan | None:
    """None where the block does not fit into what the machine lends."""
    found = [_best(one, size) for one in (problem, replace(problem, resident=True))]
    return min((one for one in found if one), key=lambda one: one.seconds, default=None)


def _best(problem: BlockProblem, size: BlockSize) -> BlockPlan | None:
    shares, stages = num_shares(problem.sizes), problem.phases(size)
    if not _may_fit(problem, size):
        return None
    width = shares + _FOLDS * len(stages)
    rows, bounds = _times(stages, shares, width)
    room = problem.room(size)
    scale = np.maximum(problem.lent, 1.0)
    rows += [np.append(row[:-1], np.zeros(width - shares)) / one for row, one in zip(room, scale, strict=True)]
    bounds += list((problem.lent - room[:, -1]) / scale)
    cost = np.zeros(width)
    for number, phase in enumerate(stages):
        cost[shares + _FOLDS * (number + 1) - 1] = phase.times
    cost[:shares] += _preference(problem, shares, cost.sum())
    whole = np.zeros((shares // 3, width))
    for one in range(shares // 3):
        whole[one, 3 * one : 3 * one + 3] = 1
    limits = [(0.0, 1.0)] * shares + [(0.0, np.inf)] * (width - shares)
    if problem.resident:
        for number in range(len(problem.sizes.groups)):
            limits[3 * number : 3 * number + 3] = [(1.0, 1.0), (0.0, 0.0), (0.0, 0.0)]
    if embedding := places(problem.sizes).get("embedding"):
        limits[embedding] = [(float(tier == problem.embedding),) * 2 for tier in TIERS]
    from scipy.optimize import linprog  # a head that offloads nothing should not load it

    found = linprog(
        cost, A_ub=np.array(rows), b_ub=np.array(bounds), A_eq=whole, b_eq=np.ones(len(whole)), bounds=limits
    )
    if found.status != 0:
        return None
    best = _cleaned(found.x[:shares])
    return BlockPlan(size, tuple(best), problem.seconds(size, best)) if problem.fits(size, best) else None


def _may_fit(problem: BlockProblem, size: BlockSize) -> bool:
    """Whether it could fit if tiers were one: spares a program for most of what cannot."""
    if problem.resident and problem.sizes.read_bytes(_MANY) > problem.lent[0]:
        return False
    room, cache = problem.room(size), places(problem.sizes)["cache"].start
    least = problem.sizes.weight_bytes + room[:, cache : cache + 3].sum(axis=0).min() + room[:, -1].sum()
    return bool(least <= problem.lent.sum() and room[0, -1] <= problem.lent[0])


def _times(stages: list[Phase], shares: int, width: int) -> tuple[list[Floats], list[float]]:
    rows: list[Floats] = []
    bounds: list[float] = []
    for number, phase in enumerate(stages):
        before = np.zeros(width)
        before[:shares] = phase.parts[0, :-1]
        constant = float(phase.parts[0, -1])
        for fold, overlap in enumerate(phase.hides):
            actor, its = np.zeros(width), float(phase.parts[fold + 1, -1])
            actor[:shares] = phase.parts[fold + 1, :-1]
            total = np.zeros(width)
            total[shares + _FOLDS * number + fold] = 1.0
            rows += [before + (1 - overlap) * actor - total, actor + (1 - overlap) * before - total]
            bounds += [-constant - (1 - overlap) * its, -its - (1 - overlap) * constant]
            before, constant = total, 0.0
    return rows, bounds


def _preference(problem: BlockProblem, shares: int, scale: float) -> Floats:
    """Of two policies that take as long, the one that keeps more on the device, and more in memory."""
    return np.tile(np.array([0.0, 1.0, 2.0]) * 1e-7 * scale * problem.sizes.layers * 1e-4, shares // 3)


def _cleaned(shares: Floats) -> Floats:
    """Without what a solver leaves of rounding; three at a time they make one."""
    parts = np.clip(shares.reshape(-1, 3), 0.0, 1.0)
    parts[parts < 1e-7] = 0.0
    result: Floats = (parts / parts.sum(axis=1, keepdims=True)).ravel()
    return result
