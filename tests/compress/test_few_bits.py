"""Codecs of few bits and of few values: what they lose, how long their messages are, and that rounding is unbiased."""

from math import ceil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from muster.compress.chunks import CHUNK
from muster.compress.feedback import ErrorFeedback
from muster.compress.matrix import DTYPES
from muster.compress.noise import uniform
from muster.compress.packing import pack, packed_bytes, unpack
from muster.compress.registry import make_coder
from muster.compress.tiles import TILE, rotate
from muster.compress.uniform import GROUP
from muster.cost.codec_table import CODECS
from muster.errors import MalformedFrame
from muster.spec.codec import Codec

CPU = torch.device("cpu")
MOST = 2**26
SHARES = ("channel", "token", "group")


def there_and_back(name: str, tensor: Tensor) -> tuple[Tensor, int]:
    coder = make_coder(Codec(name))
    header, payload = coder.encode(tensor)
    back = coder.decode(header, bytes(payload), MOST)
    assert back.dtype == tensor.dtype
    assert back.shape == tensor.shape
    return back, len(payload)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def error(back: Tensor, tensor: Tensor) -> float:
    return float((back - tensor).norm() / tensor.norm())


@given(bits=st.integers(1, 8), rows=st.integers(0, 3), width=st.integers(0, 70), seed=st.integers(0, 99))
def test_packed_numbers_come_back(bits: int, rows: int, width: int, seed: int) -> None:
    numbers = torch.randint(0, 2**bits, (rows, width), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    packed = pack(numbers, bits)
    assert packed.numel() == rows * packed_bytes(width, bits)
    assert torch.equal(unpack(packed, bits, width), numbers)


def test_the_first_number_is_in_the_lowest_bits() -> None:
    assert pack(torch.tensor([[1, 2, 3]], dtype=torch.uint8), 3).tolist() == [[1 | 2 << 3 | (3 << 6) & 0xFF, 0, 0]]


@settings(max_examples=60)
@given(
    share=st.sampled_from(SHARES),
    bits=st.integers(2, 8),
    stochastic=st.booleans(),
    dtype=st.sampled_from(sorted(DTYPES)),
    rows=st.integers(1, 4),
    width=st.sampled_from((1, 2, GROUP - 1, GROUP, GROUP + 1, 100)),
    exponent=st.integers(-60, 60),
    seed=st.integers(0, 2**31),
)
def test_every_value_comes_back_within_a_step(
    share: str, bits: int, stochastic: bool, dtype: str, rows: int, width: int, exponent: int, seed: int
) -> None:
    limit = torch.finfo(DTYPES[dtype]).max
    tensor = (gaussian(rows, width, seed=seed).double() * 2.0**exponent).clamp(-limit, limit).to(DTYPES[dtype])
    back, nbytes = there_and_back(f"{share}-{bits}" + "-stochastic" * stochastic, tensor)
    largest = float(tensor.double().abs().max())
    # From -s to s; of those that round to the nearest, s itself becomes one step less.
    steps = 2**bits - 1 if stochastic or share == "group" else 2 ** (bits - 1) * 2
    own = 2 * torch.finfo(tensor.dtype).eps * largest + 2 * torch.finfo(tensor.dtype).smallest_normal
    cut = 0 if stochastic or share == "group" else largest / 2**9  # a scale that is rounded down cuts off so much
    assert float((back.double() - tensor.double()).abs().max()) <= 1.01 * 2 * largest / steps + cut + own
    marks = {"channel": 2 * width, "token": 2 * rows, "group": 2 + 4 * rows * ceil(width / GROUP)}[share]
    assert nbytes == marks + rows * packed_bytes(width, bits)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("value", [0.0, 1.0, -3.1415, 1e-30, -65504.0])
@pytest.mark.parametrize("stochastic", [False, True])
def test_constant_values_come_back(share: str, value: float, stochastic: bool) -> None:
    tensor = torch.full((4, 70), value)
    back, _ = there_and_back(f"{share}-4" + "-stochastic" * stochastic, tensor)
    # Where +s is no level, what is constant and positive loses a step.
    assert torch.allclose(back, tensor, rtol=0.135 if share != "group" else 2e-3)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_rounding_at_random_is_right_on_average(share: str, bits: int) -> None:
    tensor = gaussian(8, 96)
    coder = make_coder(Codec(f"{share}-{bits}-stochastic"), seed=3)
    rounds = 600
    mean = torch.zeros_like(tensor)
    for _ in range(rounds):
        mean += coder.decode(*coder.encode(tensor), MOST) / rounds
    step = 2 * float(tensor.abs().max()) / (2**bits - 1)
    assert float((mean - tensor).abs().max()) < 5 * step / 2 / rounds**0.5
    assert abs(float((mean - tensor).mean())) < 5 * step / 2 / (rounds * tensor.numel()) ** 0.5


def test_noise_is_uniform_and_differs_between_messages_and_seeds() -> None:
    draws = [uniform(40_000, seed, counter, CPU) for seed, counter in ((0, 0), (0, 1), (1, 0))]
    for draw in draws:
        assert float(draw.min()) >= 0
        assert float(draw.max()) < 1
        assert torch.histc(draw, 20, 0, 1).sub(2000).abs().max() < 250
    for one, other in ((0, 1), (0, 2), (1, 2)):
        both = torch.stack((draws[one], draws[other]))
        assert abs(float(torch.corrcoef(both)[0, 1])) < 0.02
    assert torch.equal(uniform(10, 7, 2, CPU, start=5), uniform(15, 7, 2, CPU)[5:])


@pytest.mark.parametrize(("bits", "expected"), [(2, 0.504), (3, 0.250), (4, 0.125), (6, 0.0312), (8, 0.0078)])
def test_a_scale_for_each_channel_loses_what_aq_sgds_code_loses(bits: int, expected: float) -> None:
    tensor = gaussian(1024, 1600)
    back, nbytes = there_and_back(f"channel-{bits}", tensor)
    assert error(back, tensor) == pytest.approx(expected, rel=0.01)
    assert nbytes == 1024 * 1600 * bits // 8 + 2 * 1600


@pytest.mark.parametrize("codec", CODECS[1:], ids=lambda codec: codec.name)
def test_the_table_of_codecs_says_what_those_for_training_send_and_lose(codec: Codec) -> None:
    tensor = gaussian(256, 1024)
    back, nbytes = there_and_back(codec.name, tensor)
    assert 8 * nbytes / tensor.numel() == pytest.approx(codec.bits_per_value, rel=0.01)
    assert error(back, tensor) ** 2 == pytest.approx(codec.distortion, rel=0.03)


def test_tiles_take_less_than_four_and_a_half_bits_and_lose_a_ninth() -> None:
    tensor = gaussian(256, 1024)
    back, nbytes = there_and_back("tile-4", tensor)
    assert 8 * nbytes / tensor.numel() < 4.45
    assert error(back, tensor) < 0.11


def test_a_value_that_dominates_its_tile_does_not_ruin_it() -> None:
    tensor = gaussian(64, 256)
    tensor[:, ::TILE] = 100.0
    back, _ = there_and_back("tile-4", tensor)
    ordinary = torch.ones(256, dtype=torch.bool)
    ordinary[::TILE] = False
    # 100 / 7.5 would be the step without the rotation, and every other value would be lost in it.
    assert float((back - tensor)[:, ordinary].square().mean().sqrt()) < 1.0


def test_turning_twice_gives_back_what_was_turned() -> None:
    tiles = gaussian(10, TILE)
    assert torch.allclose(rotate(rotate(tiles)), tiles, atol=1e-6)
    assert torch.allclose(rotate(tiles).norm(dim=1), tiles.norm(dim=1), rtol=1e-6)


@pytest.mark.parametrize("ratio", [1, 3, 31, 40, 1000])
def test_the_largest_values_are_kept_and_the_shorter_way_to_say_which(ratio: int) -> None:
    tensor = gaussian(20, 50)
    back, nbytes = there_and_back(f"top-k-1/{ratio}", tensor)
    kept = ceil(1000 / ratio)
    assert int((back != 0).sum()) == kept
    assert nbytes == 2 * kept + min(125, 4 * kept)
    assert float(tensor[back != 0].abs().min()) >= float(tensor[back == 0].abs().max()) if ratio > 1 else True
    assert torch.allclose(back[back != 0], tensor[back != 0], rtol=2**-8)


def test_values_at_random_are_others_in_each_message() -> None:
    tensor, coder = gaussian(20, 50), make_coder(Codec("random-k-1/4"))
    kept = [coder.decode(*coder.encode(tensor), MOST) != 0 for _ in range(40)]
    assert all(int(one.sum()) == 250 for one in kept)
    assert not torch.equal(kept[0], kept[1])
    assert int(torch.stack(kept).any(dim=0).sum()) > 995


def test_of_each_chunk_the_largest_are_kept_with_their_sign() -> None:
    tensor = gaussian(3 * CHUNK + 100)
    back, nbytes = there_and_back("chunk-top-k-1/64", tensor)
    assert nbytes == 4 * (4 + 64 + 32 + 16)
    assert [int((part != 0).sum()) for part in back.split(CHUNK)[:3]] == [64, 64, 64]
    kept = back != 0
    assert torch.equal(back[kept].sign(), tensor[kept].sign())
    assert error(back[kept], tensor[kept]) < 0.12


def test_a_matrix_of_low_rank_comes_back_after_a_few_messages() -> None:
    tensor, coder = gaussian(60, 3) @ gaussian(3, 40, seed=1), make_coder(Codec("rank-3"))
    for _ in range(5):
        back = coder.decode(*coder.encode(tensor), MOST)
    assert error(back, tensor) < 0.01


@pytest.mark.parametrize("name", ["channel-2", "top-k-1/20", "random-k-1/20", "chunk-top-k-1/64", "rank-1", "int4"])
def test_with_error_feedback_everything_arrives_in_the_end(name: str) -> None:
    tensor, coder = gaussian(64, 128), make_coder(Codec(name))
    send, rounds = ErrorFeedback(coder), 400
    total = torch.zeros_like(tensor)
    for _ in range(rounds):
        total += coder.decode(*send(tensor), MOST)
    assert error(total / rounds, tensor) < 0.15
    assert torch.allclose(total + send.error, rounds * tensor, rtol=1e-3, atol=0.05)


def test_places_that_repeat_or_do_not_exist_are_refused() -> None:
    coder = make_coder(Codec("top-k-1/100"))
    header, payload = coder.encode(gaussian(10, 40))
    for places in ((1, 1, 2, 3), (0, 1, 2, 400), (-1, 1, 2, 3)):
        wrong = bytes(payload)[:8] + torch.tensor(places, dtype=torch.int32).numpy().tobytes()
        with pytest.raises(MalformedFrame):
            coder.decode(header, wrong, MOST)
