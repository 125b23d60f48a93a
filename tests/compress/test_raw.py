"""The raw codec gives back what it was given and believes nothing."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from muster.compress.raw import DTYPES, decode, encode, expect
from muster.errors import FrameTooLarge, MalformedFrame, ProtocolViolation
from muster.wire.messages.base import TensorHeader


@pytest.mark.parametrize("name", sorted(DTYPES))
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (2, 3, 5)])
def test_every_dtype_and_shape_comes_back_bit_for_bit(name: str, shape: tuple[int, ...]) -> None:
    tensor = (torch.rand(shape) * 3).to(DTYPES[name])
    header, payload = encode(tensor)
    assert header.dtype == name
    back = decode(header, bytes(payload), max_bytes=10_000)
    assert back.dtype == tensor.dtype
    assert torch.equal(back, tensor)


def test_a_view_that_is_not_contiguous_is_sent_row_by_row() -> None:
    tensor = torch.arange(12.0).view(3, 4).t()
    assert torch.equal(decode(*encode(tensor), max_bytes=100), tensor)


def test_the_decoded_tensor_does_not_share_the_frame() -> None:
    header, payload = encode(torch.zeros(2))
    frame = bytearray(payload)
    back = decode(header, frame, max_bytes=100)
    frame[:] = b"\xff" * len(frame)
    assert torch.equal(back, torch.zeros(2))


def test_a_header_larger_than_the_limit_allocates_nothing() -> None:
    for shape in [(2**40, 2**20), (0, 2**63), (2**20,)]:
        with pytest.raises(ProtocolViolation):
            decode(TensorHeader(dtype="float32", shape=shape), b"", max_bytes=2**20)
    with pytest.raises(FrameTooLarge):
        decode(TensorHeader(dtype="float32", shape=(2**20,)), bytes(2**22), max_bytes=2**20)


@pytest.mark.parametrize(
    "header",
    [
        TensorHeader(dtype="float32", shape=(3,)),
        TensorHeader(dtype="float99", shape=(2,)),
        TensorHeader(dtype="float32", shape=(2,), codec="zip"),
        TensorHeader(dtype="float32", shape=(-2,)),
        TensorHeader(dtype="float32", shape=(-1, -2)),
        TensorHeader(dtype="float32", shape=(1,) * 9),
    ],
)
def test_a_header_that_contradicts_its_payload_is_refused(header: TensorHeader) -> None:
    with pytest.raises(MalformedFrame):
        decode(header, bytes(8), max_bytes=1000)


def test_a_tensor_of_another_shape_or_dtype_than_due_is_refused() -> None:
    header, _ = encode(torch.zeros(2, 3))
    expect(header, torch.float32, (2, 3))
    for dtype, shape in [(torch.float32, (3, 2)), (torch.bfloat16, (2, 3))]:
        with pytest.raises(MalformedFrame):
            expect(header, dtype, shape)


@given(
    dtype=st.sampled_from([*DTYPES, "object", ""]),
    shape=st.lists(st.integers(-(2**63), 2**63), max_size=10).map(tuple),
    payload=st.binary(max_size=64),
)
def test_no_header_crashes_the_decoder(dtype: str, shape: tuple[int, ...], payload: bytes) -> None:
    try:
        tensor = decode(TensorHeader(dtype=dtype, shape=shape), payload, max_bytes=4096)
    except ProtocolViolation:
        return
    assert tensor.nbytes == len(payload)
