"""Constants of GPUs from those published measurements that may fit them. Knows nothing of the others.

    python benchmarks/published_fit.py            fit, print the constants as TOML and the error of what fitted them

A row's residual is the logarithm of forecast over published, bounded softly, because some sources are off by a factor.
Families and joins are held, weakly, to what one would have guessed: peaks are half reached, memory at four fifths.
Devices depart from their family only as far as their own rows pull: a departure costs as much as one row that is off by
as much. So a device with one odd row stays near its family, and one with many goes its own way.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, log
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from benchmarks.published_rows import Row, as_used, faster, figure, read
from muster.cost.measured import Published, constants_of
from muster.cost.pace import Constants
from muster.spec.devices import device_facts
from muster.spec.plan import Plan
from muster.spec.pool import Device

Floats = npt.NDArray[np.float64]
SOFT = 0.25
"""Residuals beyond this count less and less."""
JOIN_PULL, FAMILY_PULL = 0.25, 0.5
"""How hard joins and families are held to where they start: few rows tell the parts of an all-reduce apart."""
FAMILIES = ("geforce", "low-power", "workstation", "hbm", "hbm-pcie", "apple")
JOINS = ("nvlink", "pcie", "host")


@dataclass(frozen=True, slots=True)
class Tried(Constants):
    """Constants under trial."""

    by_title: Mapping[str, Constants] = field(default_factory=dict)

    def of(self, device: Device) -> Constants:
        return self.by_title[device.name]


@dataclass(frozen=True)
class Parameters:
    """What the numbers that are solved for mean; all are logarithms."""

    names: tuple[str, ...]

    @staticmethod
    def of(rows: Sequence[Row]) -> "Parameters":
        devices = sorted({row.device for row in rows})
        names = [f"{family} {share}" for family in FAMILIES for share in ("matmul_share", "memory_share")]
        names += ["attention_share", "gpu step_s", "gpu layer_s", "apple step_s", "apple layer_s", "row_s"]
        names += [f"{join} {what}" for join in JOINS for what in ("reduce_s", "share")]
        names += [f"{device} departs {what}" for device in devices for what in ("matmul", "memory")]
        return Parameters(tuple(names))

    @property
    def start(self) -> Floats:
        known = {"attention_share": 0.3, "row_s": 1e-5, "gpu step_s": 5e-4, "gpu layer_s": 4e-5}
        known |= {"apple step_s": 5e-4, "apple layer_s": 4e-5}
        for family in FAMILIES:
            known |= {f"{family} matmul_share": 0.55, f"{family} memory_share": 0.8}
        for join, (reduce_s, share) in {"nvlink": (1e-5, 0.5), "pcie": (5e-5, 0.4), "host": (6e-5, 0.25)}.items():
            known |= {f"{join} reduce_s": reduce_s, f"{join} share": share}
        return np.array([log(known[name]) if name in known else 0.0 for name in self.names])

    def table(self, values: Floats) -> tuple[Published, dict[str, dict[str, float]]]:
        """The table, and the shares of devices that depart from their family."""
        known = {name: exp(value) for name, value in zip(self.names, values, strict=True)}
        families = {}
        for family in FAMILIES:
            kind = "apple" if family == "apple" else "gpu"
            families[family] = {
                "step_s": known[f"{kind} step_s"],
                "layer_s": known[f"{kind} layer_s"],
                "row_s": known["row_s"],
                "matmul_share": min(1.0, known[f"{family} matmul_share"]),
                "attention_share": min(1.0, known["attention_share"]),
                "memory_share": min(1.0, known[f"{family} memory_share"]),
                "overlap": 1.0,
            }
        joins = {
            join: {"reduce_s": known[f"{join} reduce_s"], "share": min(1.0, known[f"{join} share"])} for join in JOINS
        }
        reaches: dict[str, dict[str, float]] = {}
        for name in self.names:
            device, _, what = name.partition(" departs ")
            if what:
                family = families[device_facts(device).family]
                reaches.setdefault(device, {})[what] = min(1.0, family[f"{what}_share"] * known[name])
        return Published.model_validate({"families": families, "joins": joins}), reaches

    def sparsity(self, rows: Sequence[Row]) -> npt.NDArray[np.int8]:
        """Which number moves which residual: a departure only the rows of its device; each its own pull."""
        devices = [name.partition(" departs ")[0] if " departs " in name else "" for name in self.names]
        found = [[int(device in ("", row.device)) for device in devices] for row in rows]
        return np.concatenate([np.array(found, dtype=np.int8), np.eye(len(devices), dtype=np.int8)])

    def pulls(self, values: Floats) -> Floats:
        """What it costs that numbers are not where they start."""
        return self._pull * (values - self.start)

    @property
    def _pull(self) -> Floats:
        joins = [name.partition(" ")[0] in JOINS for name in self.names]
        devices = [" departs " in name for name in self.names]
        return np.where(devices, 1.0, np.where(joins, JOIN_PULL, FAMILY_PULL))


def constants(parameters: Parameters, values: Floats) -> Tried:
    table, reaches = parameters.table(values)
    found = {}
    for name, shares in reaches.items():
        facts = replace(device_facts(name), reaches=shares)
        found[facts.title] = table.constants(facts, facts.flops_per_s, facts.memory_bandwidth_bytes_per_s)
    return Tried(by_title=found)


def residuals(rows: Sequence[Row], plans: Sequence[Plan], tried: Constants) -> Floats:
    return np.array([log(faster(row, figure(row, plan, tried))) for row, plan in zip(rows, plans, strict=True)])


def fit(rows: Sequence[Row]) -> tuple[Parameters, Floats]:
    """Plans are those of the constants at hand: what the fit changes of a batch hardly matters."""
    parameters = Parameters.of(rows)
    plans = [as_used(row, constants_of(row.pool)) for row in rows]

    def loss(values: Floats) -> Floats:
        off = residuals(rows, plans, constants(parameters, values))
        # Half of the square near zero, and linear far out.
        soft = SOFT * np.sqrt(2 * (np.sqrt(1 + (off / SOFT) ** 2) - 1)) * np.sign(off)
        return np.concatenate([soft, parameters.pulls(values)])

    start = parameters.start
    sparsity = parameters.sparsity(rows)
    found = least_squares(
        loss, start, bounds=(start - 3, start + 3), diff_step=1e-3, max_nfev=25, jac_sparsity=sparsity
    )
    return parameters, np.asarray(found.x)


def as_toml(parameters: Parameters, values: Floats) -> str:
    table, reaches = parameters.table(values)
    lines = []
    for kind, entries in (("families", table.families), ("joins", table.joins)):
        for name, entry in entries.items():
            lines += [f"[published.{kind}.{name}]"]
            lines += [f"{key} = {value:.3g}" for key, value in entry.model_dump().items()] + [""]
    for device, shares in reaches.items():
        lines.append(f"{device}: reaches = {{ {', '.join(f'{k} = {v:.2f}' for k, v in shares.items())} }}")
    return "\n".join(lines)


def main() -> None:
    rows = [row for row in read()[0] if row.fits]
    parameters, values = fit(rows)
    print(as_toml(parameters, values))
    plans = [as_used(row, constants_of(row.pool)) for row in rows]
    off = residuals(rows, plans, constants(parameters, values))
    median, worst = np.median(np.abs(np.exp(off) - 1)), np.exp(np.abs(off).max())
    print(f"# {len(rows)} rows: median {median:.1%}, worst {worst:.2f} times")


if __name__ == "__main__":
    main()
