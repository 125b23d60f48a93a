"""A layout that ezkl proves fast: columns and digits, searched by counting rows and decided by proving the best few.

A prover's work is nearly the cells of its table, 2**k rows times what stands in each; k is a whole number, so more
columns pay until k falls no further, or until tables of digits need as many rows as the gates (ZKPerf: there is an
optimum in between). Digits: a table of `base` entries must fit among the rows, and `legs` of them must cover the sizes
that occur; the default base of 16,384 alone asks for k = 15, however small the network is.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from muster.verify.zk.child import ChildLimits, ChildResult, WhyNot
from muster.verify.zk.halo2 import UNHURRIED, CircuitShape, Halo2Circuit, expect, parameters_path, smallest_k

COLUMNS = (1, 2, 4, 8)
BASES = (64, 256, 512, 1024, 2048, 4096)
PROVED = 3
"""So many are proven before one is chosen: the best of as many numbers of columns."""
DEFAULT = CircuitShape(columns=2, base=16_384, legs=2)
"""ezkl 23's own choice of columns and digits."""
EXACT = replace(DEFAULT, rebase=10)
"""The same without rounding between layers."""


@dataclass(frozen=True, slots=True)
class LayoutCandidate:
    shape: CircuitShape
    rows: int
    k: int

    @property
    def cells(self) -> float:
        """Of the prover's table, in the unit of one inner column; what stands beside the gates takes a third of one."""
        return float(2**self.k * (self.shape.columns + 1 / 3))


@dataclass(frozen=True, slots=True)
class TunedLayout:
    default: ChildResult | WhyNot
    """With ezkl's own digits and rows."""
    best: ChildResult
    choice: LayoutCandidate
    tried: tuple[tuple[LayoutCandidate, float], ...]
    """With seconds that proving took."""

    @property
    def times_faster(self) -> float | None:
        """How many times faster proving is than by the defaults."""
        if isinstance(self.default, WhyNot):
            return None
        return float(self.default.said["seconds"]["prove"] / self.best.said["seconds"]["prove"])


def candidates(network: bytes, x: Sequence[float], start: CircuitShape, folder: Path) -> list[LayoutCandidate]:
    """All layouts that cover the same sizes of numbers as `start`, fewest cells first."""
    circuit = Halo2Circuit(folder)
    circuit.write(network, x)
    found = []
    for shape in _shapes(start):
        laid = circuit.lay_out(shape)
        if isinstance(laid, ChildResult):
            settings = laid.said["settings"]
            found.append(LayoutCandidate(shape, settings["num_rows"], smallest_k(settings)))
    return sorted(found, key=lambda one: (one.cells, one.rows))


def tune(
    network: bytes, x: Sequence[float], folder: Path, start: CircuitShape = DEFAULT, limits: ChildLimits = UNHURRIED,
    say: Callable[[str], None] = lambda words: None,
) -> TunedLayout:  # fmt: skip
    """Beat the defaults. Raises `MachineTrouble` where nothing can be proven here."""
    say("counting rows")
    found = candidates(network, x, start, folder / "rows")
    tried: list[tuple[LayoutCandidate, ChildResult]] = []
    last: ChildResult | WhyNot = WhyNot("no layout is known")
    best_of_each = {one.shape.columns: one for one in reversed(found)}
    for candidate in sorted(best_of_each.values(), key=lambda one: one.cells)[:PROVED]:
        say(f"proving with {in_words(candidate)}")
        last = _proof(network, x, folder / "best", candidate.shape, candidate.k, limits)
        if isinstance(last, ChildResult) and last.said["holds"]:
            tried.append((candidate, last))
    if not tried:
        expect(last, "The proof")
    choice, best = min(tried, key=lambda pair: float(pair[1].said["seconds"]["prove"]))
    say("proving with ezkl's defaults")
    default = by_default(network, x, folder / "default", limits)
    return TunedLayout(default, best, choice, tuple((one, float(done.said["seconds"]["prove"])) for one, done in tried))


def by_default(network: bytes, x: Sequence[float], folder: Path, limits: ChildLimits) -> ChildResult | WhyNot:
    """As ezkl's own examples do it: digits and columns left alone, k by its calibration. Bits as in `DEFAULT`."""
    circuit = Halo2Circuit(folder, limits)
    circuit.write(network, x)
    arguments: dict[str, Any] = {
        "input_visibility": "public",
        "output_visibility": "public",
        "param_visibility": "fixed",
    }
    arguments |= {"input_scale": DEFAULT.x_bits, "param_scale": DEFAULT.w_bits}
    laid = circuit.steps(["settings", "calibrate"], arguments=arguments, most_k=18)
    if isinstance(laid, WhyNot):
        return laid
    k = laid.said["settings"]["run_args"]["logrows"]
    return _from_settings(circuit, k)


def _proof(
    network: bytes, x: Sequence[float], folder: Path, shape: CircuitShape, k: int, limits: ChildLimits
) -> ChildResult | WhyNot:
    circuit = Halo2Circuit(folder, limits)
    circuit.write(network, x)
    return circuit.prove(shape, k)


def _from_settings(circuit: Halo2Circuit, k: int) -> ChildResult | WhyNot:
    srs = parameters_path(k)
    made = circuit.parameters(k, srs)
    if isinstance(made, WhyNot):
        return made
    done = circuit.steps(["compile", "keys", "witness", "prove", "verify"], srs=str(srs))
    return done if isinstance(done, WhyNot) else replace(done, said=done.said | {"k": k})


def in_words(one: LayoutCandidate) -> str:
    shape = one.shape
    return f"{shape.columns} columns, {shape.legs} digits of {shape.base}, 2**{one.k} rows"


def _shapes(start: CircuitShape) -> Iterable[CircuitShape]:
    covered = start.base**start.legs
    for columns in COLUMNS:
        for base in BASES:
            legs = next(legs for legs in range(1, 64) if base**legs >= covered)
            yield replace(start, columns=columns, base=base, legs=legs)
