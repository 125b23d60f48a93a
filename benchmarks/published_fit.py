"""Constants of GPUs from those published measurements that may fit them. Knows nothing of the others.

    python benchmarks/published_fit.py            fit, print the constants as TOML and the error of what fitted them

A row's residual is the logarithm of forecast over published, bounded softly, because some sources are off by a factor.
Devices depart from their family only as far as their own rows pull: a departure costs as much as one row that is off by
as much. So a device with one odd row stays near its family, and one with many goes its own way.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, log

import numpy as np
import numpy.typing as npt
from published_rows import Row, as_used, faster, figure, read
from scipy.optimize import least_squares

from muster.cost.measured import Published, constants_of
from muster.cost.pace import Constants
from muster.spec.devices import device_facts, find_device
from muster.spec.plan import Plan
from muster.spec.pool import Device

Floats = npt.NDArray[np.float64]
SOFT = 0.25
"""Residuals beyond this count less and less."""
SHARES = ("matmul_share", "memory_share", "attention_share")
FAMILIES = ("geforce", "workstation", "hbm", "apple")
JOINS = ("nvlink", "pcie", "host")


@dataclass(frozen=True, slots=True)
class Tried(Constants):
    """Constants under trial, by device."""

    table: Published | None = None
    reaches: Mapping[str, Mapping[str, float]] | None = None

    def of(self, device: Device) -> Constants:
        facts = find_device(device.name)
        assert facts is not None
        assert self.table is not None
        assert self.reaches is not None
        facts = replace(facts, reaches=dict(self.reaches.get(facts.name, {})))
        return self.table.constants(facts, device.flops_per_s, device.memory_bandwidth_bytes_per_s)


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
        """Which number moves which residual: a departure only the rows of its device, and itself."""
        devices = [name.partition(" departs ")[0] if " departs " in name else "" for name in self.names]
        found = [[int(device in ("", row.device)) for device in devices] for row in rows]
        own = np.eye(len(devices), dtype=np.int8)[[bool(device) for device in devices]]
        return np.concatenate([np.array(found, dtype=np.int8), own])

    def departures(self, values: Floats) -> Floats:
        return np.array([v for name, v in zip(self.names, values, strict=True) if " departs " in name])


def constants(parameters: Parameters, values: Floats) -> Tried:
    table, reaches = parameters.table(values)
    return Tried(table=table, reaches=reaches)


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
        return np.concatenate([soft, parameters.departures(values)])

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
