"""Proofs by ezkl: halo2 with KZG commitments on BN254. From a network and its input to a proof, in a child process.

The public parameters (`srs`) hold powers of a secret. Whoever made them could keep that secret and forge any proof, so
they convince only who made them, or trusts a ceremony that did.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from muster.disk import cache_directory
from muster.errors import MachineTrouble
from muster.verify.zk.child import ChildLimits, ChildResult, WhyNot, python_of, run
from muster.verify.zk.network import require

MODULE = "muster.verify.zk.halo2_steps"
SMALLEST_K, LARGEST_K = 6, 20
UNHURRIED = ChildLimits(8_000, 240)
SPARE_ROWS = 10
"""Rows that halo2 fills with random numbers, and a few more."""


@dataclass(frozen=True, slots=True)
class CircuitShape:
    """How a circuit is laid out, and how finely numbers stand in it."""

    columns: int = 2
    """Inner columns of the gates that multiply and add."""
    base: int = 1024
    """Digits of range checks count to this."""
    legs: int = 3
    """Digits of a number, so that sizes up to base ** legs are told from negative ones."""
    x_bits: int = 7
    w_bits: int = 7
    """Of inputs and of weights behind the point."""
    lookup: tuple[int, int] | None = None
    """Integers for which a function is tabulated, the last excluded."""
    rebase: int = 1
    """Products are rounded back to the bits of inputs where they have more than so many times as many."""
    weights: str = "fixed"
    """`fixed`: part of the verifying key. `private`: nobody knows which they were."""
    freivalds: bool = False
    """Check products of matrices by a random combination of their rows. Pays for many rows of input only."""
    open_ends: bool = True
    """Leave the range of public inputs and outputs to the verifier, who sees them."""

    def arguments(self) -> dict[str, Any]:
        """ezkl's names for them."""
        found: dict[str, Any] = {
            "num_inner_cols": self.columns, "decomp_base": self.base, "decomp_legs": self.legs,
            "input_scale": self.x_bits, "param_scale": self.w_bits, "scale_rebase_multiplier": self.rebase,
            "input_visibility": "public", "output_visibility": "public", "param_visibility": self.weights,
            "disable_freivalds": not self.freivalds, "logrows": 14, "ignore_range_check_inputs_outputs": self.open_ends,
        }  # fmt: skip
        return found | ({"lookup_range": self.lookup} if self.lookup else {})


@dataclass(frozen=True, slots=True)
class Halo2Circuit:
    """One circuit in a folder of its own."""

    folder: Path
    limits: ChildLimits = UNHURRIED

    def steps(self, names: Sequence[str], **asked: Any) -> ChildResult | WhyNot:
        """Run these steps of `halo2_steps` one after another."""
        require("ezkl")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "asked.json").write_text(json.dumps({"steps": list(names), **asked}))
        return run(python_of(MODULE, "asked.json"), self.limits, self.folder)

    def write(self, network: bytes, x: Sequence[float]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "network.onnx").write_bytes(network)
        (self.folder / "input.json").write_text(json.dumps({"input_data": [list(map(float, x))]}))

    def lay_out(self, shape: CircuitShape) -> ChildResult | WhyNot:
        """Settings of the circuit without making it: its rows, tables and the smallest k."""
        return self.steps(["settings"], arguments=shape.arguments())

    def prove(self, shape: CircuitShape, k: int | None = None, srs: Path | None = None) -> ChildResult | WhyNot:
        """Everything up to a proof that was verified once; `k` is the smallest by default."""
        laid = self.lay_out(shape)
        if isinstance(laid, WhyNot):
            return laid
        k = smallest_k(laid.said["settings"]) if k is None else k
        if k > LARGEST_K:
            return WhyNot(f"needs 2**{k} rows; more than 2**{LARGEST_K} are not tried")
        srs = srs or parameters_path(k)
        made = self.parameters(k, srs)
        if isinstance(made, WhyNot):
            return made
        names = ["resize", "compile", "keys", "witness", "prove", "verify"]
        done = self.steps(names, k=k, lookup_range=shape.lookup, srs=str(srs))
        if isinstance(done, WhyNot):
            return done
        seconds = done.said["seconds"] | {"parameters": made.said["seconds"].get("parameters", 0.0)}
        return replace(done, said=done.said | {"k": k, "seconds": seconds, "srs_bytes": srs.stat().st_size})

    def parameters(self, k: int, srs: Path) -> ChildResult | WhyNot:
        if srs.exists():
            return ChildResult({"seconds": {}}, 0.0, 0.0)
        return self.steps(["parameters"], k=k, srs=str(srs))

    def verify(self, srs: Path) -> tuple[bool, str, float]:
        """Whether the proof in the folder holds, why not, and in how many seconds that was known."""
        done = self.steps(["verify"], srs=str(srs))
        if isinstance(done, WhyNot):
            return False, done.reason, 0.0
        return done.said["holds"], done.said["why"], done.said["seconds"]["verify"]


def parameters_path(k: int) -> Path:
    """Where this machine keeps parameters that it made itself."""
    return cache_directory() / "zk" / f"kzg-{k}.srs"


def smallest_k(settings: dict[str, Any]) -> int:
    """The least power of two that has room for gates, digits and tables."""
    arguments = settings["run_args"]
    tables = [high - low + 1 for low, high in settings["required_range_checks"]]
    rows = max(settings["num_rows"], *tables, settings.get("total_dynamic_col_size", 0)) + SPARE_ROWS
    if settings["required_lookups"]:
        low, high = arguments["lookup_range"]
        rows = max(rows, (high - low) // 2)  # a long table goes on in further columns
    return max(SMALLEST_K, math.ceil(math.log2(rows)))


def expect(done: ChildResult | WhyNot, what: str) -> ChildResult:
    """Raise `MachineTrouble` where there is nothing."""
    if isinstance(done, WhyNot):
        raise MachineTrouble(f"{what} failed: {done.reason}; look at the limits of memory and time.")
    return done
