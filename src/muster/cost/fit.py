"""Constants of the roofline from measurements, by non-negative least squares; what it misses is kept beside them.

Which side of the roofline bounds a measurement depends on the constants, and given the sides the constants are a linear
problem. So the two alternate, from several starts, and the best outcome wins: no randomness, no step size. How much of
one side hides behind the other is tried out, and so is how fast a pause makes a step cold.
Residuals are relative, so that a millisecond counts as much in a short step as a second in a long one.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import inf
from statistics import median

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from muster.cost.pace import (
    IDEAL,
    Constants,
    host_slowness,
    memory_bandwidth,
    overlapped,
    peak_flops_per_s,
    seconds,
    warmth,
)
from muster.cost.work import Work
from muster.errors import InvalidRequest
from muster.spec.pool import Device

_FITTED = ("step_s", "cold_s", "layer_s", "row_s", "matmul", "attention", "memory")
"""The columns of what is solved."""
_OVERHEAD, _COMPUTE, _MEMORY = [0, 1, 2, 3], [4, 5], 6
_OVERLAPS = (1.0, 0.75, 0.5, 0.25, 0.0)
_COOLS_S = (0.001, 0.002, 0.004, 0.006, 0.008, 0.011, 0.016, 0.032)
_PULL = 1e-4
"""Weight of the ideal constants beside one measurement: decides only what no measurement does."""
_ROUNDS = 50

_Floats = npt.NDArray[np.float64]
_Sides = npt.NDArray[np.bool_]
"""Of each measurement: is it bound by memory?"""


@dataclass(frozen=True, slots=True)
class Measurement:
    work: Work
    device: Device
    dtype: str
    seconds: float
    label: str = ""
    pause_s: float = inf
    """Since the device did work of the same kind."""


@dataclass(frozen=True, slots=True)
class Fit:
    constants: Constants
    residuals: tuple[float, ...]
    """Predicted over measured, less one, in the order of the measurements."""
    labels: tuple[str, ...] = ()

    @property
    def median_error(self) -> float:
        return median(map(abs, self.residuals))

    @property
    def worst_error(self) -> float:
        return max(map(abs, self.residuals))

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    @staticmethod
    def from_json(text: str) -> "Fit":
        """Raises `InvalidRequest` on a text that `to_json` did not write."""
        try:
            entries = json.loads(text)
            constants = Constants(**{name: float(value) for name, value in entries["constants"].items()})
            residuals = tuple(float(value) for value in entries["residuals"])
            return Fit(constants, residuals, tuple(map(str, entries["labels"])))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidRequest("The constants are not what a fit writes; fit them again.", "constants") from error


def fit(measurements: Sequence[Measurement], host_flops_per_s: float = 0.0) -> Fit:
    """`host_flops_per_s` as in `Constants`. Raises `InvalidRequest` without measurements, or on one of no time."""
    if not measurements:
        raise InvalidRequest("Nothing was measured, so no constants can be fitted; run a few steps first.")
    for measurement in measurements:
        if not 0 < measurement.seconds < float("inf"):
            name = measurement.label or "a measurement"
            raise InvalidRequest(f"{name} took {measurement.seconds} s, which cannot be; measure it again.")
    # Without pauses to compare, nobody can say what is due to them.
    cooling = _COOLS_S if any(measurement.pause_s < inf for measurement in measurements) else (0.0,)
    _, constants = min(
        (_fit(measurements, cools_s, host_flops_per_s) for cools_s in cooling), key=lambda found: found[0]
    )
    residuals = tuple(
        predicted / m.seconds - 1 for m, predicted in zip(measurements, _predict(measurements, constants), strict=True)
    )
    return Fit(constants, residuals, tuple(measurement.label for measurement in measurements))


def _fit(measurements: Sequence[Measurement], cools_s: float, host_flops_per_s: float) -> tuple[float, Constants]:
    """The loss, and the constants."""
    rows = np.array([_row(measurement, cools_s, host_flops_per_s) for measurement in measurements])
    found = [(overlap, _alternate(rows, start, overlap)) for overlap in _OVERLAPS for start in _starts(rows)]
    loss, overlap, values = min(
        ((_loss(rows, values, overlap), overlap, values) for overlap, values in found), key=lambda found: found[0]
    )
    fitted = dict(zip(_FITTED, map(float, values), strict=True))
    return loss, replace(IDEAL, **fitted, overlap=overlap, cools_s=cools_s, host_flops_per_s=host_flops_per_s)


def left_out(measurements: Sequence[Measurement], host_flops_per_s: float = 0.0) -> tuple[float, ...]:
    """The residual of each measurement under constants that were fitted to the others: how good a forecast is."""
    if len(measurements) < 2:
        raise InvalidRequest("One measurement cannot be forecast from the others; measure more.")
    errors = []
    for index, measurement in enumerate(measurements):
        others = [*measurements[:index], *measurements[index + 1 :]]
        (predicted,) = _predict([measurement], fit(others, host_flops_per_s).constants)
        errors.append(predicted / measurement.seconds - 1)
    return tuple(errors)


def _predict(measurements: Sequence[Measurement], constants: Constants) -> list[float]:
    return [seconds(m.work, m.device, m.dtype, constants, m.pause_s) for m in measurements]


def _row(measurement: Measurement, cools_s: float, host_flops_per_s: float) -> list[float]:
    """What each constant would be multiplied by, as a share of the time measured."""
    work, device = measurement.work, measurement.device
    slowness, peak = host_slowness(device, host_flops_per_s), peak_flops_per_s(device, measurement.dtype)
    amounts = (
        work.steps * slowness,
        work.steps * slowness * (1 - warmth(measurement.pause_s, cools_s)) if cools_s else 0.0,
        work.layers * slowness,
        work.rows * slowness,
        work.matmul_flops / peak,
        work.attention_flops / peak,
        work.memory_bytes / memory_bandwidth(device),
    )
    return [amount / measurement.seconds for amount in amounts]


def _ideal() -> _Floats:
    return np.array([getattr(IDEAL, name) for name in _FITTED])


def _starts(rows: _Floats) -> list[_Sides]:
    """By the ideal constants, all bound by arithmetic, all bound by memory."""
    return [_bound_by_memory(rows, _ideal()), np.zeros(len(rows), dtype=bool), np.ones(len(rows), dtype=bool)]


def _bound_by_memory(rows: _Floats, constants: _Floats) -> _Sides:
    computing = rows[:, _COMPUTE] @ constants[_COMPUTE]
    return np.asarray(rows[:, _MEMORY] * constants[_MEMORY] > computing)


def _alternate(rows: _Floats, by_memory: _Sides, overlap: float) -> _Floats:
    best = _ideal()
    seen: set[bytes] = set()
    for _ in range(_ROUNDS):
        if by_memory.tobytes() in seen:
            break
        seen.add(by_memory.tobytes())
        constants = _solve(rows, by_memory, overlap)
        best = min(best, constants, key=lambda values: _loss(rows, values, overlap))
        by_memory = _bound_by_memory(rows, constants)
    return best


def _solve(rows: _Floats, by_memory: _Sides, overlap: float) -> _Floats:
    active = rows.copy()
    active[:, _COMPUTE] *= np.where(by_memory, 1.0 - overlap, 1.0)[:, None]
    active[:, _MEMORY] *= np.where(by_memory, 1.0, 1.0 - overlap)
    # One faint row for each constant says: as in the ideal, unless a measurement disagrees.
    largest = rows.max(axis=0)
    scale = np.where(largest > 0, largest, 1.0) * _PULL
    constants, _ = nnls(np.vstack([active, np.diag(scale)]), np.concatenate([np.ones(len(rows)), scale * _ideal()]))
    return np.asarray(constants, dtype=np.float64)


def _loss(rows: _Floats, constants: _Floats, overlap: float) -> float:
    computing, moving = rows[:, _COMPUTE] @ constants[_COMPUTE], rows[:, _MEMORY] * constants[_MEMORY]
    busy = overlapped(computing, moving, overlap)
    return float(((rows[:, _OVERHEAD] @ constants[_OVERHEAD] + busy - 1.0) ** 2).sum())
