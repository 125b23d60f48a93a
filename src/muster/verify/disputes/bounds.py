"""For each operator, how far from the exact result an honest machine may be, beside the rounding of the result itself.

A rule gives two scales, both in units of the working precision's rounding (float32 for float32 and both halves):

    proven   holds for every order of summation, grouping and fused multiply-add; for elementary functions, as many
             units in the last place as the vector libraries in use allow (SLEEF, VML, CUDA: at most 4; their fast
             forms of exp: 2 + 1.2 |x|, CUDA C++ Programming Guide, table of intrinsic functions)
    usual    how large errors get that do not conspire: they add up like a random walk (N. Higham, T. Mary, A New
             Approach to Probabilistic Rounding Error Analysis, SIAM J. Sci. Comput. 41, 2019). Multiplied by
             `interval.LIMIT`.

Operators that move numbers or compare them have none: what they make must be equal. Tensors are float64 here.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from muster.verify.disputes.rounding import gamma


@dataclass(frozen=True)
class Case:
    """One operator with its inputs in float64, and the exact result of one of its outputs."""

    arguments: list[Any]
    named: dict[str, Any]
    exact: Tensor
    unit: float
    """Of the working precision."""


@dataclass(frozen=True)
class Scales:
    proven: Tensor
    usual: Tensor
    rounded: tuple[Tensor, ...] = ()
    """Intermediate results that may be rounded to the result's dtype, too."""


Rule = Callable[[Case], Scales]


def _once(case: Case) -> Scales:
    """One correctly rounded operation; halves are computed in float32 first, and scalars rounded to it."""
    size = _size(case.exact)
    for argument in case.arguments[1:2]:
        if isinstance(argument, int | float):
            size = size + abs(float(argument)) * float(case.named.get("alpha", 1)) * torch.ones_like(size)
    return Scales(2 * size, 2 * size)


def _sum_of_two(case: Case) -> Scales:
    one, other = case.arguments[0], case.arguments[1]
    size = _size(case.exact) + abs(case.named.get("alpha", 1)) * abs(other) + 0 * abs(one)
    return Scales(2 * size, 2 * size)


def _function(ulps: float, of: Callable[[Case], Tensor] | None = None) -> Rule:
    def rule(case: Case) -> Scales:
        size = ulps * (_size(case.exact) if of is None else of(case))
        return Scales(size, size)

    return rule


def _of_x(case: Case) -> Tensor:
    size: Tensor = case.arguments[0].abs() + case.exact.abs()
    return size


def _of_one(case: Case) -> Tensor:
    return torch.ones_like(_size(case.exact))


def _exponential(case: Case) -> Tensor:
    """Fast forms of exp lose 1.2 |x| units."""
    x = case.arguments[0].abs().clamp(max=200.0)
    size: Tensor = case.exact.abs() * (2 + x)
    return size


def _power(case: Case) -> Scales:
    """A cube of a half is two products on some machines, each rounded."""
    size = _size(case.exact)
    whole = case.arguments[1] if len(case.arguments) > 1 else 2
    between = max(0, int(whole) - 2) if isinstance(whole, int | float) and 0 <= whole <= 8 else 0
    return Scales(16 * size, 16 * size, (size,) * between)


def _product(case: Case) -> Scales:
    x, w = case.arguments[0], case.arguments[1]
    return _of_product(case, x, w, torch.matmul)


def _linear(case: Case) -> Scales:
    x, w = case.arguments[0], case.arguments[1]
    bias = case.arguments[2] if len(case.arguments) > 2 else None
    return _of_product(case, x, w.transpose(-1, -2) if w.dim() > 1 else w, torch.matmul, bias)


def _added_product(case: Case) -> Scales:
    bias, x, w = case.arguments[:3]
    beta, alpha = case.named.get("beta", 1), case.named.get("alpha", 1)
    return _of_product(case, alpha * x, w, torch.matmul, beta * bias)


def _grouped(case: Case) -> Scales:
    x, w, offsets = case.arguments[:3]
    return _of_product(case, x, w, lambda a, b: grouped_product(a, b, offsets))


def _of_product(
    case: Case, x: Tensor, w: Tensor, times: Callable[[Tensor, Tensor], Tensor], bias: Tensor | None = None
) -> Scales:
    terms = x.shape[-1] + (bias is not None)
    absolute, squares = times(x.abs(), w.abs()), times(x * x, w * w)
    rounded: tuple[Tensor, ...] = ()
    if bias is not None:
        absolute, squares, rounded = absolute + bias.abs(), squares + bias * bias, ((case.exact - bias).abs(),)
    usual = math.sqrt(terms) * (case.exact.abs() + squares.sqrt())
    return Scales(gamma(terms + 2, case.unit) * absolute, usual, rounded)


def grouped_product(x: Tensor, w: Tensor, offsets: Tensor) -> Tensor:
    """Rows of `x` [T, K] up to each of `offsets` [G] times their own matrix of `w` [G, K, N]. Other rows are zero."""
    out = x.new_zeros(x.shape[0], w.shape[-1])
    start = 0
    for group, end in enumerate(offsets.tolist()):
        end = min(max(int(end), start), len(x))
        out[start:end] = x[start:end] @ w[group]
        start = end
    return out


def _mean(case: Case) -> Scales:
    return _of_sum(case, lambda x: torch.mean(x, *_dims(case)))


def _total(case: Case) -> Scales:
    return _of_sum(case, lambda x: torch.sum(x, *_dims(case)))


def _of_sum(case: Case, fold: Callable[[Tensor], Tensor]) -> Scales:
    x = case.arguments[0]
    terms = max(1, x.numel() // max(1, case.exact.numel()))
    absolute, squares = fold(x.abs()), fold(x * x)
    scale = absolute / fold(torch.ones_like(x))  # the mean, whichever of the two it is
    root = (squares / fold(torch.ones_like(x))).sqrt() * (absolute / scale.clamp(min=1e-300))
    usual = math.sqrt(terms) * (case.exact.abs() + root / math.sqrt(terms))
    return Scales(gamma(terms + 2, case.unit) * absolute, usual)


def _dims(case: Case) -> tuple[Any, ...]:
    dim = case.arguments[1] if len(case.arguments) > 1 else case.named.get("dim")
    keep = case.arguments[2] if len(case.arguments) > 2 else case.named.get("keepdim", False)
    return (dim, keep) if dim is not None else ()


def _running_sum(case: Case) -> Scales:
    x, dim = case.arguments[0], case.arguments[1] if len(case.arguments) > 1 else case.named["dim"]
    absolute = torch.cumsum(x.abs(), dim)
    return Scales(gamma(x.shape[dim] + 1, case.unit) * absolute, math.sqrt(x.shape[dim]) * absolute)


def _softmax(case: Case) -> Scales:
    """Relative: the exponent's own rounding |x - max|, a fast exp, the sum, the division; online forms round twice."""
    x, dim = case.arguments[0], case.arguments[1] if len(case.arguments) > 1 else case.named["dim"]
    distance = (x - x.amax(dim, keepdim=True)).abs().nan_to_num(posinf=0.0).clamp(max=200.0)
    each = 16 + 3 * distance
    total = (case.exact * each).sum(dim, keepdim=True)
    proven = 2 * case.exact * (each + total + gamma(x.shape[dim] + 4, case.unit))
    usual = case.exact * (4 + distance + (case.exact * distance).sum(dim, keepdim=True) + math.sqrt(x.shape[dim]))
    return Scales(proven, usual)


def _layer_norm(case: Case) -> Scales:
    """Mean and variance in one pass (Welford, Chan), or in two; Chan, Golub, LeVeque, The American Statistician 37."""
    x, shape = case.arguments[0], case.arguments[1]
    given = dict(zip(("weight", "bias", "eps"), case.arguments[2:5], strict=False)) | case.named
    weight, bias, eps = given.get("weight"), given.get("bias"), given.get("eps", 1e-5)
    dims = tuple(range(-len(shape), 0))
    terms = math.prod(shape)
    mean, variance = x.mean(dims, keepdim=True), x.var(dims, correction=0, keepdim=True)
    scale = (variance + eps).rsqrt() * (1.0 if weight is None else weight.abs())
    size, centred = x.abs().mean(dims, keepdim=True), (x - mean).abs()
    condition = (1 + mean * mean / variance.clamp(min=1e-300)).sqrt() * variance / (variance + eps)
    shift = 0.0 if bias is None else bias.abs()

    def scales(n: float) -> Tensor:
        result: Tensor = scale * (n * size + 8 * centred + centred * n * condition) + 2 * shift + 2 * case.exact.abs()
        return result

    return Scales(scales(gamma(terms + 4, case.unit)), scales(math.sqrt(terms)))


def _complex(case: Case) -> Scales:
    """Of numbers in rectangular form: two products and a sum for each part."""
    size = case.arguments[0].abs() * (case.arguments[1].abs() if isinstance(case.arguments[1], Tensor) else 1.0)
    return Scales(8 * size, 8 * size)


def _times(case: Case) -> Scales:
    return _complex(case) if case.exact.is_complex() else _once(case)


def _added_rows(case: Case) -> Scales:
    """`index_add`, `scatter_add`: any row may get all of them."""
    size = _size(case.exact) + case.arguments[0].abs().max() + case.arguments[3].abs().sum()
    return Scales(gamma(case.arguments[3].numel() + 2, case.unit) * size, size)


def _size(x: Tensor) -> Tensor:
    return x.abs()


_EXP = _function(4.0, _exponential)
RULES: Mapping[str, Rule] = {
    "linear": _linear, "matmul": _product, "mm": _product, "bmm": _product, "addmm": _added_product,
    "baddbmm": _added_product, "_grouped_mm": _grouped,
    "mean": _mean, "sum": _total, "cumsum": _running_sum, "softmax": _softmax, "_softmax": _softmax,
    "layer_norm": _layer_norm,
    "add": _sum_of_two, "sub": _sum_of_two, "rsub": _sum_of_two, "mul": _times, "div": _times, "reciprocal": _once,
    "to": _once, "_to_copy": _once, "type_as": _once, "copy": _once, "sqrt": _once,
    "rsqrt": _function(8.0), "pow": _power, "tanh": _function(16.0), "log": _function(8.0, _of_x),
    "sin": _function(8.0, _of_one), "cos": _function(8.0, _of_one), "polar": _function(16.0, lambda c: c.arguments[0]),
    "erf": _function(16.0), "exp": _EXP, "sigmoid": _EXP, "silu": _EXP, "softplus": _function(16.0, _of_x),
    "gelu": _function(64.0, _of_x),
    "index_add": _added_rows, "scatter_add": _added_rows,
}  # fmt: skip

_MOVES = """
    view reshape _unsafe_view flatten unflatten permute transpose t unsqueeze squeeze expand expand_as slice
    select narrow cat stack split split_with_sizes chunk unbind clone contiguous index index_select gather
    embedding where masked_fill arange full full_like zeros ones zeros_like ones_like new_zeros new_ones
    new_full scatter index_put eq ne lt le gt ge logical_and logical_or logical_not bitwise_and bitwise_or
    bitwise_not bitwise_xor repeat repeat_interleave triu tril roll flip neg abs relu clamp clamp_min
    clamp_max maximum minimum amax amin floor_divide remainder histc view_as_complex view_as_real nan_to_num
    isin any all floor ceil sign fill zero
"""
EXACT = frozenset(_MOVES.split())
CHOICES = frozenset({"topk", "sort", "max", "min"})
"""Which of equal numbers comes first is not the same everywhere."""
KNOWN = EXACT | CHOICES | RULES.keys()
