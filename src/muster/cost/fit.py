"""Constants of the roofline from measurements, by non-negative least squares; what it misses is kept beside them.

Which side of the roofline bounds a measurement depends on the constants, and given the sides the constants are a linear
problem. So the two alternate, from several starts, and the best outcome wins: no randomness, no step size.
Residuals are relative, so that a millisecond counts as much in a short step as a second in a long one.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from statistics import median

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from muster.cost.pace import IDEAL, Constants, peak_flops_per_s, seconds
from muster.cost.roofline import memory_bandwidth
from muster.cost.work import Work
from muster.errors import InvalidRequest
from muster.spec.pool import Device

_COMPUTE, _MEMORY = [2, 3], 4
"""Columns: step, layer, matmul, attention, memory."""
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


def fit(measurements: Sequence[Measurement]) -> Fit:
    """Raises `InvalidRequest` without measurements, or with one that took no time."""
    if not measurements:
        raise InvalidRequest("Nothing was measured, so no constants can be fitted; run a few steps first.")
    for measurement in measurements:
        if not 0 < measurement.seconds < float("inf"):
            name = measurement.label or "a measurement"
            raise InvalidRequest(f"{name} took {measurement.seconds} s, which cannot be; measure it again.")
    rows = np.array([_row(measurement) for measurement in measurements])
    found = [_alternate(rows, start) for start in _starts(rows)]
    constants = Constants(*(float(value) for value in min(found, key=lambda values: _loss(rows, values))))
    residuals = tuple(
        predicted / m.seconds - 1 for m, predicted in zip(measurements, _predict(measurements, constants), strict=True)
    )
    return Fit(constants, residuals, tuple(measurement.label for measurement in measurements))


def left_out(measurements: Sequence[Measurement]) -> tuple[float, ...]:
    """The residual of each measurement under constants that were fitted to the others: how good a forecast is."""
    if len(measurements) < 2:
        raise InvalidRequest("One measurement cannot be forecast from the others; measure more.")
    errors = []
    for index, measurement in enumerate(measurements):
        others = [*measurements[:index], *measurements[index + 1 :]]
        (predicted,) = _predict([measurement], fit(others).constants)
        errors.append(predicted / measurement.seconds - 1)
    return tuple(errors)


def _predict(measurements: Sequence[Measurement], constants: Constants) -> list[float]:
    return [seconds(m.work, m.device, m.dtype, constants) for m in measurements]


def _row(measurement: Measurement) -> list[float]:
    """What each constant would be multiplied by, as a share of the time measured."""
    work, peak = measurement.work, peak_flops_per_s(measurement.device, measurement.dtype)
    amounts = (
        work.steps,
        work.layers,
        work.matmul_flops / peak,
        work.attention_flops / peak,
        work.memory_bytes / memory_bandwidth(measurement.device),
    )
    return [amount / measurement.seconds for amount in amounts]


def _starts(rows: _Floats) -> list[_Sides]:
    """By the ideal constants, all bound by arithmetic, all bound by memory."""
    ideal = np.array(astuple(IDEAL))
    return [_bound_by_memory(rows, ideal), np.zeros(len(rows), dtype=bool), np.ones(len(rows), dtype=bool)]


def _bound_by_memory(rows: _Floats, constants: _Floats) -> _Sides:
    computing = rows[:, _COMPUTE] @ constants[_COMPUTE]
    return np.asarray(rows[:, _MEMORY] * constants[_MEMORY] > computing)


def _alternate(rows: _Floats, by_memory: _Sides) -> _Floats:
    best = np.array(astuple(IDEAL))
    seen: set[bytes] = set()
    for _ in range(_ROUNDS):
        if by_memory.tobytes() in seen:
            break
        seen.add(by_memory.tobytes())
        constants = _solve(rows, by_memory)
        best = min(best, constants, key=lambda values: _loss(rows, values))
        by_memory = _bound_by_memory(rows, constants)
    return best


def _solve(rows: _Floats, by_memory: _Sides) -> _Floats:
    active = rows.copy()
    active[:, _COMPUTE] *= ~by_memory[:, None]
    active[:, _MEMORY] *= by_memory
    # One faint row for each constant says: as in the ideal, unless a measurement disagrees.
    largest = rows.max(axis=0)
    scale = np.where(largest > 0, largest, 1.0) * _PULL
    ideal = np.array(astuple(IDEAL))
    constants, _ = nnls(np.vstack([active, np.diag(scale)]), np.concatenate([np.ones(len(rows)), scale * ideal]))
    return np.asarray(constants, dtype=np.float64)


def _loss(rows: _Floats, constants: _Floats) -> float:
    overhead = rows[:, :2] @ constants[:2]
    bound = np.maximum(rows[:, _COMPUTE] @ constants[_COMPUTE], rows[:, _MEMORY] * constants[_MEMORY])
    return float(((overhead + bound - 1.0) ** 2).sum())
