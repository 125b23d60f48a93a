"""The interval of an operator holds every honest result, and none that is off by more than is said here."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from muster.errors import ProtocolViolation
from muster.verify.disputes.interval import IntervalFinding, judge
from muster.verify.disputes.program import Argument, HeldTensor, Items, Made, NamedSetting, TracedOperator, Value
from muster.verify.disputes.tensors import digest, dtype_name
from tests.verify.disputes.stages import traced

HALVES = (torch.bfloat16, torch.float16)
DTYPES = (torch.float32, *HALVES)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def linear(x: Tensor, w: Tensor) -> Callable[[Tensor], IntervalFinding]:
    """What the referee finds of a claimed x wᵀ."""
    made = (Made(9, dtype_name(x), (len(x), len(w))),)
    operator = TracedOperator("aten.linear.default", (Value(0), HeldTensor("w", digest(w))), (), made)
    return lambda claimed: judge(operator, {0: x}, {"w": w}, [claimed])


def split_sum(x: Tensor, w: Tensor, parts: int, order: Tensor) -> Tensor:
    """x wᵀ with the terms in this order, so many at a time added up in float32 by one, then the parts."""
    products = [
        (x[:, piece].float()[:, None] * w[:, piece].float()[None]).cumsum(-1)[..., -1] for piece in order.chunk(parts)
    ]
    total = products[0]
    for product in products[1:]:
        total = total + product
    return total.to(x.dtype)


def int8(w: Tensor) -> Tensor:
    """Each row rounded to 255 steps, as 8-bit weights are."""
    step = w.float().abs().amax(-1, keepdim=True) / 127
    return ((w.float() / step).round() * step).to(w.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [64, 1024])
def test_no_order_of_summation_leaves_the_interval(size: int, dtype: torch.dtype) -> None:
    x, w = drawn(5, size, seed=1, dtype=dtype), drawn(24, size, seed=2, dtype=dtype)
    found = linear(x, w)
    orders = [torch.arange(size), torch.arange(size).flip(0), x.float()[0].abs().argsort()]
    for order in orders:
        for parts in (1, 2, 7, 32):
            finding = found(split_sum(x, w, parts, order))
            assert not finding.is_outside, (parts, finding)
            assert not finding.is_proven
    assert not found(x @ w.T).is_outside
    assert not found(torch.cat([x[:2] @ w.T, x[2:3] @ w.T, x[3:] @ w.T])).is_outside


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_that_only_grow_and_numbers_of_all_sizes_stay_inside(dtype: torch.dtype) -> None:
    size = 2048
    x, w = drawn(3, size, seed=1).abs().to(dtype), drawn(8, size, seed=2).abs().to(dtype)
    uneven = (drawn(3, size, seed=3) * 10 ** (2 * drawn(1, size, seed=4))).clamp(-100, 100).to(dtype)
    for one in (x, uneven):
        finding = linear(one, w)(split_sum(one, w, 1, torch.arange(size)))
        assert not finding.is_outside, finding


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_matrix_of_int8_weights_is_outside(dtype: torch.dtype) -> None:
    x, w = drawn(4, 1024, seed=1, dtype=dtype), drawn(64, 1024, seed=2, dtype=dtype)
    finding = linear(x, w)((x.float() @ int8(w).float().T).to(dtype))
    assert finding.is_proven, "at this width even by the bound that holds for every order"
    assert finding.usual > 5


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 2e-5), (torch.bfloat16, 0.01), (torch.float16, 1.5e-3)])
def test_one_number_off_by_the_stated_share_is_outside_and_named(dtype: torch.dtype, share: float) -> None:
    x, w = drawn(4, 256, seed=1, dtype=dtype), drawn(32, 256, seed=2, dtype=dtype)
    claimed = (x.double() @ w.double().T).to(dtype)
    typical = float(claimed.float().pow(2).mean().sqrt())
    at = int(claimed.float().abs().sub(typical).abs().argmin())  # a number of the usual size
    claimed.reshape(-1)[at] += 2 * share * typical
    finding = linear(x, w)(claimed)
    assert finding.is_outside
    assert finding.where == (0, *divmod(at, 32))


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_outside_where_the_exact_result_is_one(wrong: float) -> None:
    x, w = drawn(2, 8, seed=1), drawn(3, 8, seed=2)
    claimed = x @ w.T
    claimed[1, 2] = wrong
    assert linear(x, w)(claimed) == IntervalFinding(math.inf, math.inf, (0, 1, 2))


def test_what_is_no_number_is_inside_where_the_exact_result_is_none_either() -> None:
    x, w = drawn(2, 8, seed=1), drawn(3, 8, seed=2)
    x[0, 0] = math.nan
    assert not linear(x, w)(x @ w.T).is_outside
    big = torch.full((1, 8), 60000.0, dtype=torch.float16)
    ones = torch.ones(1, 8, dtype=torch.float16)
    assert not linear(big, ones)(torch.tensor([[math.inf]], dtype=torch.float16)).is_outside
    assert linear(big, ones)(torch.tensor([[-math.inf]], dtype=torch.float16)).is_proven


def test_equal_numbers_may_be_chosen_in_either_order_but_others_may_not() -> None:
    x = torch.tensor([1.0, 3.0, 3.0, 2.0])
    made = (Made(5, "float32", (2,)), Made(6, "int64", (2,)))
    operator = TracedOperator("aten.topk.default", (Value(0), 2), (), made)

    def found(numbers: list[float], places: list[int]) -> bool:
        return judge(operator, {0: x}, {}, [torch.tensor(numbers), torch.tensor(places)]).is_outside

    assert not found([3.0, 3.0], [1, 2])
    assert not found([3.0, 3.0], [2, 1])
    assert found([3.0, 3.0], [1, 1])
    assert found([3.0, 2.0], [1, 3])
    assert found([3.0, 3.0], [1, 3])
    assert found([3.0, 3.0], [1, 9])


@pytest.mark.parametrize("name", ["softmax", "silu", "mean", "rsqrt", "cos", "mul", "add"])
def test_each_kind_of_operator_has_an_interval_that_a_small_change_leaves(name: str) -> None:
    one = traced("llama")
    from muster.verify.disputes.execute import advance

    values = advance(one.program.operators, one.inputs, one.held)
    operator = next(each for each in one.program.operators if each.name == name and each.made[0].dtype == "float32")
    claimed = values[operator.made[0].number].clone()
    at = int(claimed.abs().reshape(-1).argmax())
    claimed.view(-1)[at] *= 1 + 1e-4
    assert judge(operator, values, one.held, [claimed]).is_proven


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        ("aten.linear.nothing", (Value(0), Value(0))),
        ("os.system.default", ("ls",)),
        ("aten.from_file.default", ("/etc/passwd",)),
        ("aten.normal_.default", (Value(0),)),
        ("aten.linear.default", (Value(0), Value(7))),
        ("aten.linear.default", (Value(0), HeldTensor("absent", b""))),
        ("aten.view.default", (Value(0), Items((10**12,)))),
        ("aten.to.dtype", (Value(0), NamedSetting("dtype", "float7"))),
        ("aten.linear.default", (Value(0),)),
    ],
)
def test_only_known_operators_run_and_only_on_what_is_there(target: str, arguments: tuple[Argument, ...]) -> None:
    operator = TracedOperator(target, arguments, (), (Made(5, "float32", (2, 2)),))
    with pytest.raises(ProtocolViolation, match=r"[;,] "):
        judge(operator, {0: torch.zeros(2, 2)}, {}, [torch.zeros(2, 2)])
