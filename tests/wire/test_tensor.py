import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.errors import MalformedFrame
from muster.wire.messages.base import TensorHeader
from muster.wire.tensor import DTYPE_BYTES, check_tensor, tensor_bytes


def test_a_true_header_passes_and_gives_the_size() -> None:
    assert check_tensor(TensorHeader(dtype="bfloat16", shape=(3, 5)), 30, (3, None)) == 30
    assert check_tensor(TensorHeader(dtype="float32", shape=()), 4) == 4
    assert check_tensor(TensorHeader(dtype="float32", shape=(0, 5)), 0) == 0


@pytest.mark.parametrize(
    ("dtype", "shape", "said"),
    [
        ("float33", (1,), "unknown dtype"),
        ("float32", (-1, -4), "negative"),
        ("float32", (1,) * 9, "9 dimensions"),
        ("float32", (2**63, 2**63), "claims"),
        ("float32", (0, 2**63), "claims"),
        ("float32", (3,), "needs 12 bytes and 16 came"),
    ],
)
def test_a_header_that_lies_is_refused(dtype: str, shape: tuple[int, ...], said: str) -> None:
    with pytest.raises(MalformedFrame, match=said):
        check_tensor(TensorHeader(dtype=dtype, shape=shape), 16)


def test_a_shape_that_was_not_due_is_refused() -> None:
    header = TensorHeader(dtype="int8", shape=(2, 8))
    for due in [(2, 9), (2,), (None, None, None)]:
        with pytest.raises(MalformedFrame, match="was due"):
            check_tensor(header, 16, due)


def test_a_compressing_codec_may_be_shorter_but_not_ask_for_all_memory() -> None:
    assert check_tensor(TensorHeader(dtype="float32", shape=(4, 4), codec="int8"), 20) == 64
    with pytest.raises(MalformedFrame):
        tensor_bytes(TensorHeader(dtype="float32", shape=(2**20, 2**20), codec="int8"))


@given(st.text(max_size=8) | st.sampled_from(sorted(DTYPE_BYTES)), st.lists(st.integers(-(2**63), 2**64 - 1)))
def test_any_header_is_a_size_or_an_error(dtype: str, shape: list[int]) -> None:
    with contextlib.suppress(MalformedFrame):
        assert tensor_bytes(TensorHeader(dtype=dtype, shape=tuple(shape))) >= 0
