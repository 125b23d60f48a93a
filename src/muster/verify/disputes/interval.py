"""Whether the claimed result of one operator is one that an honest machine may have, given its inputs.

The referee computes the operator in float64, once for the result and once or twice for the size of its terms, and holds
every number of the claim against

    |claim - exact|  <=  rounding of the result's dtype  +  unit * scale(inputs)  +  what may be flushed to zero

with the two scales of `bounds`: the proven one, which no honest order of summation leaves, and `LIMIT` times the usual
one, which is far tighter.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from muster.verify.disputes.bounds import CHOICES, RULES, Case, Scales, grouped_product
from muster.verify.disputes.execute import Held, call, resolve, run_operator, whole
from muster.verify.disputes.program import Argument, NamedSetting, TracedOperator
from muster.verify.disputes.rounding import SMALLEST, UNIT, WIDER, working_unit

LIMIT = 4.0
"""Times the usual scale. Normal errors leave it once in 16,000 numbers; the usual scale itself is a bound that most
sums stay far below."""
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class IntervalFinding:
    """How far the worst number of a claim is out, as a share of what is allowed: above 1 it is outside."""

    proven: float
    usual: float
    where: tuple[int, ...] = ()
    """Index of the worst number, the output first."""

    @property
    def is_proven(self) -> bool:
        return self.proven > 1.0

    @property
    def is_outside(self) -> bool:
        return self.usual > 1.0


INSIDE = IntervalFinding(0.0, 0.0)
UNEQUAL = float("inf")


@torch.inference_mode()
def judge(operator: TracedOperator, values: Mapping[int, Tensor], held: Held, claimed: list[Tensor]) -> IntervalFinding:
    """The worst finding over its outputs. Raises `ProtocolViolation` where it cannot run on these inputs."""
    computed = run_operator(operator, values, held)
    if any((a.dtype, a.shape) != (b.dtype, b.shape) for a, b in zip(computed, claimed, strict=True)):
        return IntervalFinding(UNEQUAL, UNEQUAL)
    if operator.name in CHOICES and len(claimed) == 2:
        return _choice(operator, values, held, computed, claimed)
    findings = [
        _output(operator, values, held, index, *pair) for index, pair in enumerate(zip(computed, claimed, strict=True))
    ]
    return max(findings, key=lambda finding: finding.usual)


def _output(
    operator: TracedOperator, values: Mapping[int, Tensor], held: Held, index: int, computed: Tensor, claimed: Tensor
) -> IntervalFinding:
    rounds = claimed.is_floating_point() or claimed.is_complex()
    if not rounds or operator.name not in RULES:
        return _equal(computed, claimed, index)
    center, proven, usual = radii(operator, values, held, claimed.dtype)
    error = (claimed.to(center.dtype) - center).abs()
    return _worst(error, proven, usual, center, claimed, index)


def radii(
    operator: TracedOperator, values: Mapping[int, Tensor], held: Held, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """The exact result in float64, how far from it a claim of this `dtype` may be, and how far it usually may be."""

    def wide(leaf: Argument) -> Any:
        if isinstance(leaf, NamedSetting) and leaf.kind == "dtype":
            found = resolve(leaf, values, held, CPU)
            return WIDER.get(found, found)
        found = resolve(leaf, values, held, CPU)
        return found.to(WIDER[found.dtype]) if isinstance(found, Tensor) and found.dtype in WIDER else found

    arguments, named = inputs(operator, wide)
    center = grouped_product(*arguments[:3]) if operator.name == "_grouped_mm" else call(operator, wide)[0]
    if not (center.is_floating_point() or center.is_complex()):
        center = center.to(torch.float64)
    unit = working_unit(dtype)
    scales = _through(operator, Case(arguments, named, center, unit))
    rounding = UNIT[dtype] * (center.abs() + sum(part.abs() for part in scales.rounded)) * (1 + 2**-10)
    floor = SMALLEST[dtype] + 2.0**-126
    return center, rounding + unit * scales.proven + floor, rounding + LIMIT * unit * scales.usual + floor


def inputs(operator: TracedOperator, leaf: Any) -> tuple[list[Any], dict[str, Any]]:
    """Its arguments with every leaf replaced."""
    return (
        [whole(argument, leaf) for argument in operator.arguments],
        {name: whole(argument, leaf) for name, argument in operator.named},
    )


def _through(operator: TracedOperator, case: Case) -> Scales:
    """Where only a part of a tensor is written, all of it may be off as much as copies are."""
    if not operator.through:
        return RULES[operator.name](case)
    size = 4 * case.exact.abs()
    return Scales(size, size)


def _equal(computed: Tensor, claimed: Tensor, index: int) -> IntervalFinding:
    same = (computed == claimed) | ((computed != computed) & (claimed != claimed))
    if bool(same.all()):
        return INSIDE
    return IntervalFinding(UNEQUAL, UNEQUAL, (index, *(int(i) for i in (~same).nonzero()[0])))


def _worst(
    error: Tensor, proven: Tensor, usual: Tensor, center: Tensor, claimed: Tensor, index: int
) -> IntervalFinding:
    if not error.numel():
        return INSIDE
    largest = torch.finfo(claimed.dtype).max
    odd = ~center.isfinite() | ~claimed.isfinite()
    agree = (center.isnan() & claimed.isnan()) | (center == claimed)
    if not center.is_complex():
        over = (center.abs() + proven >= largest) & claimed.isinf() & (claimed.sign() == center.sign())
        agree = agree | over
    shares = []
    for radius in (usual, proven):
        share = torch.where(odd, torch.where(agree, 0.0, UNEQUAL), error / radius.nan_to_num(posinf=1e308))
        shares.append(share.reshape(-1))
    at = int(shares[0].argmax())
    where = torch.unravel_index(torch.tensor(at), error.shape) if error.dim() else ()
    return IntervalFinding(float(shares[1].max()), float(shares[0][at]), (index, *(int(i) for i in where)))


def _choice(
    operator: TracedOperator, values: Mapping[int, Tensor], held: Held, computed: list[Tensor], claimed: list[Tensor]
) -> IntervalFinding:
    """The same numbers as here, in any order where equal ones change places, each from where it says."""
    arguments, named = inputs(operator, lambda leaf: resolve(leaf, values, held, CPU))
    x: Tensor = arguments[0]
    number, place = claimed
    if not x.dim():
        return _equal(computed[0], number, 0)
    dim = _dim(operator.name, arguments, named)
    keep = operator.name in ("topk", "sort") or number.dim() == x.dim()
    numbers, places = (number, place) if keep else (number.unsqueeze(dim), place.unsqueeze(dim))
    expected = computed[0] if keep else computed[0].unsqueeze(dim)
    if place.numel() and not (int(place.min()) >= 0 and int(place.max()) < x.shape[dim]):
        return IntervalFinding(UNEQUAL, UNEQUAL, (1,))
    ordered = torch.sort(places, dim)[0]
    twice = (ordered.narrow(dim, 1, ordered.shape[dim] - 1) == ordered.narrow(dim, 0, ordered.shape[dim] - 1)).any()
    if bool(twice):
        return IntervalFinding(UNEQUAL, UNEQUAL, (1,))
    taken = _equal(torch.gather(x, dim, places), numbers, 0)
    if operator.name == "topk" and not (named.get("sorted", (*arguments, True, True, True, True)[4])):
        numbers, expected = torch.sort(numbers, dim)[0], torch.sort(expected, dim)[0]
    return max(taken, _equal(expected, numbers, 0), key=lambda finding: finding.usual)


def _dim(name: str, arguments: list[Any], named: dict[str, Any]) -> int:
    at = 2 if name == "topk" else 1
    dim = arguments[at] if len(arguments) > at else named.get("dim", -1)
    return int(dim)
