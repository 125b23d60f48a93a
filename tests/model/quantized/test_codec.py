"""Numbers in few bits come back within half a kept step, whatever their range."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from muster.cost.few_bits import FP8, INT4, INT8, BlockFormat, bytes_per_parameter, vector_bytes
from muster.model.quantized.codec import dequantize, from_nibbles, quantize, to_nibbles
from muster.model.quantized.matrix import quantized
from muster.model.quantized.pages import from_bytes, to_bytes

KEPT = [torch.bfloat16, torch.float16, torch.float32]
GROUP = 64


def numbers(scale: float, offset: float, columns: int = 100) -> Tensor:
    return torch.randn(3, columns, generator=torch.Generator().manual_seed(0)) * scale + offset


@given(
    bits=st.integers(2, 8),
    exponent=st.integers(-12, 4),
    offset=st.sampled_from([0.0, 1.0, -37.5, 3.14159]),
    kept=st.sampled_from(KEPT),
    columns=st.sampled_from([1, 63, 64, 65, 200]),
)
def test_no_number_is_further_than_half_a_step_from_what_comes_back(
    bits: int, exponent: int, offset: float, kept: torch.dtype, columns: int
) -> None:
    x = numbers(10.0**exponent, offset, columns)
    codes, step, middle = quantize(x, bits, GROUP, kept)
    back = dequantize(codes, step, middle, GROUP)
    most = step.float().repeat_interleave(GROUP, -1)[:, :columns] * 0.5
    rounding = 4 * torch.finfo(torch.float32).eps * x.abs().amax()
    assert bool(((back - x).abs() <= most * (1 + 1e-4) + rounding).all())


def test_a_constant_group_comes_back_as_it_was_rounded_and_zeros_as_zeros() -> None:
    for value in (0.0, 0.5, 1e-30, -3e4):
        x = torch.full((2, 70), value)
        back = dequantize(*quantize(x, 4, GROUP, torch.bfloat16), GROUP)
        assert torch.allclose(back, x, rtol=1e-3, atol=0), value


def test_padding_does_not_widen_the_last_group() -> None:
    x = numbers(1e-3, 5.0, 65)
    _, step, _ = quantize(x, 4, GROUP, torch.float32)
    assert float(step[:, 1].max()) == 0.0  # one number alone


def test_what_is_not_finite_counts_as_zero() -> None:
    x = torch.tensor([[float("nan"), float("inf"), 1.0, -1.0]])
    back = dequantize(*quantize(x, 8, GROUP, torch.float32), GROUP)
    assert torch.allclose(back, torch.tensor([[0.0, 0.0, 1.0, -1.0]]), atol=0.005)


def test_nibbles_of_an_odd_number_of_columns() -> None:
    codes = torch.randint(-8, 8, (3, 101), generator=torch.Generator().manual_seed(0)).to(torch.int8)
    assert torch.equal(from_nibbles(to_nibbles(codes), 101), codes)


@pytest.mark.parametrize("form", [INT4, INT8, FP8], ids=lambda form: form.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(48, 96), (2, 48, 130)])
def test_a_matrix_takes_the_bytes_that_are_promised(
    form: BlockFormat, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    matrix = quantized(torch.randn(shape), form, dtype)
    stack = 1 if len(shape) == 2 else shape[0]
    assert matrix.nbytes == stack * form.bytes_of(shape[-2], shape[-1], dtype.itemsize)
    assert matrix.shape == shape


@pytest.mark.parametrize(("form", "most"), [(INT4, 0.12), (INT8, 0.012), (FP8, 0.03)])
def test_a_matrix_is_not_far_from_what_it_was(form: BlockFormat, most: float) -> None:
    x = numbers(0.02, 0.0, 640)
    assert float((quantized(x, form, torch.bfloat16).values(torch.float32) - x).norm() / x.norm()) < most


def test_four_and_a_half_bits_in_half_precision() -> None:
    assert bytes_per_parameter("int4", "bfloat16") == 4.5 / 8
    assert bytes_per_parameter("int4", "float32") == 5 / 8
    assert bytes_per_parameter("", "bfloat16") == 2
    assert 1 < bytes_per_parameter("int8", "bfloat16") < 1.001


@pytest.mark.parametrize("kept", ["int8", "int4"])
@pytest.mark.parametrize("size", [64, 80, 128, 7])
def test_a_vector_in_a_page_takes_the_bytes_that_are_promised_and_comes_back(kept: str, size: int) -> None:
    x = torch.randn(5, 2, size, generator=torch.Generator().manual_seed(0))
    data = to_bytes(x, kept)
    assert data.shape[-1] == vector_bytes(size, 4, kept)
    back = from_bytes(data, size, kept, torch.float32)
    assert float((back - x).abs().max()) < (0.3 if kept == "int4" else 0.03)
