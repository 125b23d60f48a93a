"""One cell of the table: what a prover took for a task, or why there is nothing. Knows no prover."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from statistics import median
from typing import Any, Literal

from muster.verify.zk.child import WhyNot

Task = Literal["ecdsa", "merkle-keccak", "merkle-poseidon", "digits", "dlrm"]
TASKS: tuple[Task, ...] = ("ecdsa", "merkle-keccak", "merkle-poseidon", "digits", "dlrm")
REPEATED_BELOW_S = 60.0
"""A proof that takes less is made three times."""


@dataclass(frozen=True, slots=True)
class ProverFigures:
    """The fields of ZKPerf, and what had to be set up before."""

    prove_s: float
    verify_ms: float
    proof_bytes: int
    peak_mb: float
    size: int
    """Constraints (Groth16), gates (PLONK) or rows (halo2) that were used."""
    setup_s: float
    setup_bytes: int
    """Of the proving key; for Longfellow of the circuit."""
    note: str = ""
    runs: int = 1


@dataclass(frozen=True, slots=True)
class BenchRow:
    task: Task
    system: str
    found: ProverFigures | WhyNot

    def record(self) -> dict[str, Any]:
        return {"task": self.task, "system": self.system, **asdict(self.found)}


def repeated(work: Callable[[], ProverFigures | WhyNot], most: int = 3) -> ProverFigures | WhyNot:
    """Medians of `most` runs, of one where a proof takes a minute."""
    first = work()
    if isinstance(first, WhyNot) or first.prove_s >= REPEATED_BELOW_S:
        return first
    runs = [first]
    for _ in range(most - 1):
        again = work()
        if isinstance(again, WhyNot):
            return again
        runs.append(again)
    names = [
        one.name for one in fields(first) if one.name not in ("note", "runs", "size", "setup_bytes", "proof_bytes")
    ]
    middle = {name: median(getattr(one, name) for one in runs) for name in names}
    return replace(first, **middle, runs=len(runs))
